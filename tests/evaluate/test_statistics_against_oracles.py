"""Every statistic against scipy, numpy or brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantspectrum.evaluate.bootstrap import interval, percentiles, resamples
from quantspectrum.evaluate.fidelity import PERCENTS, PairedTokens, fidelities, mean_figure
from quantspectrum.evaluate.statistics import edit_distance, mcnemar

stats = pytest.importorskip("scipy.stats", reason="needs scipy, the oracle")


@pytest.mark.parametrize(
    ("lost", "won"),
    [(0, 0), (1, 0), (0, 1), (5, 5), (3, 9), (20, 2), (121, 59), (600, 700), (1500, 1400)],
)
def test_mcnemar_is_the_two_sided_binomial_test(lost: int, won: int) -> None:
    expected = stats.binomtest(lost, lost + won, 0.5).pvalue if lost + won else 1.0
    assert mcnemar(lost, won) == pytest.approx(expected, rel=1e-9)


def slow_distance(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(
        slow_distance(a[1:], b[1:]) + (a[0] != b[0]),
        slow_distance(a[1:], b) + 1,
        slow_distance(a, b[1:]) + 1,
    )


@given(st.lists(st.integers(0, 2), max_size=5), st.lists(st.integers(0, 2), max_size=5))
def test_edit_distance_is_the_shortest_way(a: list[int], b: list[int]) -> None:
    assert edit_distance(a, b) == slow_distance(tuple(a), tuple(b))


def paired(seed: int = 0, samples: int = 12, damage: float = 0.3) -> PairedTokens:
    chance = np.random.default_rng(seed)
    lengths = chance.integers(1, 9, samples)
    tokens = int(lengths.sum())
    before = -chance.exponential(1.0, tokens)
    return PairedTokens(
        sample=np.repeat(np.arange(samples), lengths),
        kinds=np.array(["text", "image+text", "image+text"])[np.arange(samples) % 3],
        before=before,
        after=before - damage * chance.standard_normal(tokens) ** 2,
        kl=damage * chance.exponential(1.0, tokens),
        same=chance.random(tokens) > damage,
        kl_kind="exact",
    )


@pytest.mark.parametrize("kind", ["all", "text", "image+text"])
def test_every_value_is_the_plain_one_over_its_tokens(kind: str) -> None:
    tokens = paired()
    found = {one.kind: one for one in fidelities(tokens)}[kind]
    own = np.ones(12, bool) if kind == "all" else tokens.kinds == kind
    at = own[tokens.sample]
    p, q, kl = np.exp(tokens.before[at]), np.exp(tokens.after[at]), tokens.kl[at]
    assert (found.samples, found.tokens) == (own.sum(), at.sum())
    assert found.loss.value == pytest.approx((np.log(p) - np.log(q)).mean())
    assert found.perplexity == pytest.approx(np.exp(-np.log(q).mean()))
    assert found.baseline_perplexity == pytest.approx(np.exp(-np.log(p).mean()))
    assert found.perplexity_ratio.value == pytest.approx(
        found.perplexity / found.baseline_perplexity
    )
    assert found.kl_mean.value == pytest.approx(kl.mean())
    assert found.kl_median.value == np.percentile(kl, 50, method="inverted_cdf")
    assert found.kl_p99.value == np.percentile(kl, 99, method="inverted_cdf")
    assert found.kl_max.value == kl.max()
    assert (found.kl_max.low, found.kl_max.differs) == (None, None)
    assert found.delta_p_mean.value == pytest.approx((q - p).mean())
    assert found.delta_p_rms.value == pytest.approx(math.sqrt(((q - p) ** 2).mean()))
    for percent in PERCENTS:
        expected = np.percentile(q - p, percent, method="inverted_cdf")
        assert found.delta_p_percentiles[str(percent)].value == pytest.approx(expected)
    assert found.same_top.value == tokens.same[at].mean()


def test_resampled_percentiles_are_those_of_the_tokens_written_out() -> None:
    chance = np.random.default_rng(3)
    sample = np.repeat(np.arange(5), [3, 1, 4, 2, 6])
    values = chance.integers(0, 6, len(sample)).astype(float)
    counts = resamples(5, len(sample), 1)[:40]
    _, found = percentiles(values, sample, counts, [1, 50, 99])
    for row, count in enumerate(counts):
        written = np.concatenate([np.tile(values[sample == s], count[s]) for s in range(5)])
        expected = [np.percentile(written, q, method="inverted_cdf") for q in (1, 50, 99)]
        assert found[:, row].tolist() == expected


def test_the_bootstrap_error_is_that_of_the_mean() -> None:
    values = np.random.default_rng(5).standard_normal(200)
    counts = resamples(200, 200)
    assert (counts.sum(1) == 200).all()
    stderr, low, high = interval(counts @ values / 200, 200)
    assert stderr == pytest.approx(values.std(ddof=1) / math.sqrt(200), rel=0.1)
    t = stats.t.interval(0.95, 199, values.mean(), values.std(ddof=1) / math.sqrt(200))
    assert (low, high) == pytest.approx(t, abs=0.25 * stderr)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Tokens of a sample share what they are off by: only whole samples may be drawn."""
    chance = np.random.default_rng(7)
    covered = {"clustered": 0, "by token": 0}
    trials, samples, tokens = 300, 20, 10
    counts, flat = resamples(samples, samples * tokens), resamples(samples * tokens, 200)
    for _ in range(trials):
        values = chance.standard_normal(samples)[:, None] + chance.standard_normal(
            (samples, tokens)
        )
        _, low, high = interval((counts @ values.sum(1)) / (samples * tokens), samples)
        covered["clustered"] += low <= 0 <= high
        _, low, high = interval((flat @ values.ravel()) / (samples * tokens), samples * tokens)
        covered["by token"] += low <= 0 <= high
    # 95 % of 300 within three standard errors (1.3 %); tokens alone pretend to know far more.
    assert 0.91 <= covered["clustered"] / trials <= 0.985
    assert covered["by token"] / trials < 0.7


def test_a_difference_is_one_only_if_its_interval_excludes_none() -> None:
    for seed, damage in itertools.product(range(3), (0.0, 0.01, 0.5)):
        for one in fidelities(paired(seed, damage=damage)):
            for figure in (one.loss, one.delta_p_mean):
                assert figure.low is not None
                assert figure.high is not None
                assert figure.differs == (figure.low > 0 or figure.high < 0)
            ratio = one.perplexity_ratio
            assert ratio.differs == one.loss.differs
            assert one.kl_mean.differs is None, (
                "off zero whatever is compared: no floor, no verdict"
            )


def test_a_divergence_differs_where_it_is_beyond_every_noise_floor() -> None:
    loud, quiet = paired(1, damage=0.5), paired(1, damage=0.01)
    (whole, *_) = fidelities(loud, [quiet])
    assert whole.kl_mean.differs
    assert whole.same_top.differs
    assert whole.kl_mean.floor == pytest.approx(quiet.kl.mean())
    (whole, *_) = fidelities(loud, [quiet, loud])
    assert whole.kl_mean.floor == pytest.approx(loud.kl.mean())
    assert not whole.kl_mean.differs
    (whole, *_) = fidelities(quiet, [loud])
    assert not whole.kl_mean.differs
    assert not whole.delta_p_rms.differs


def test_equal_models_differ_in_nothing_and_have_no_noise() -> None:
    still = paired(damage=0.0)
    still = PairedTokens(**(vars(still) | {"same": np.ones_like(still.same)}))
    for one in fidelities(still, [still]):
        figures = [value for _, value in one if hasattr(value, "differs")]
        assert not any(figure.differs for figure in figures)
        assert one.kl_mean.floor == 0.0
        assert one.perplexity_ratio.value == one.perplexity_ratio.floor == 1.0


def test_one_sample_has_values_and_no_intervals() -> None:
    found = fidelities(paired(samples=1))
    assert found[0].loss.low is None
    assert found[0].loss.differs is None
    assert found[0].samples == 1


def test_questions_about_one_picture_are_drawn_together() -> None:
    steps = {f"{picture}/{n}": float(picture % 2) for picture in range(8) for n in range(6)}
    together = mean_figure(steps, {key: key.partition("/")[0] for key in steps})
    apart = mean_figure(steps, {})
    assert together.value == apart.value == 0.5
    assert together.stderr is not None
    assert apart.stderr is not None
    assert together.stderr > 2 * apart.stderr
