"""Truth: a planted op is found, orders are judged by what following them costs, yardsticks bound them."""

from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path

import pytest

from quantspectrum.agreement.orders import TruthGroup, groups_of, orders_of, yardsticks_of
from quantspectrum.agreement.truth import _prefixes
from quantspectrum.artifacts import Op, SensitivityReport, Truth, read_artifact, write_artifact
from quantspectrum.cli import main
from quantspectrum.demo import model_dir
from quantspectrum.errors import UserError
from quantspectrum.models.loading import Loaded, ModelSpec, load_model
from quantspectrum.models.ops import list_ops
from quantspectrum.stages import DataRequest, OpsRequest, lens_sensitivity
from quantspectrum.stages import truth as measure

LANGUAGE = OpsRequest(include=("*.language_model.*",))
DATA = DataRequest(data=("demo",), calibration=4, samples=4, eval_samples=8, batch_size=8)
SHARES = (0.3, 0.6, 0.9)


@pytest.fixture(scope="module")
def spoiled() -> Loaded:
    """The demo model with one op whose weights eight bits a channel cannot hold."""
    loaded = load_model(ModelSpec(model=str(model_dir()), device="cpu"))
    op = list_ops(loaded.model, loaded.layout, include=LANGUAGE.include).candidates[4]
    weight = loaded.model.get_parameter(f"{op.name}.weight")
    weight.data[:, 0] += 60 * weight.abs().max()
    return loaded


@pytest.fixture(scope="module")
def reports(spoiled: Loaded, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("reports")
    paths = [directory / "range.json", directory / "size.json"]
    for path, lens in zip(paths, ("heuristic:range", "heuristic:size"), strict=True):
        lens_sensitivity(
            spoiled,
            path,
            lens=lens,
            data=DATA,
            ops=LANGUAGE,
            format_name="w8a8",
            progress=lambda _: lambda: None,
        )
    return paths


@pytest.fixture(scope="module")
def found(spoiled: Loaded, reports: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Truth:
    out = tmp_path_factory.mktemp("truth") / "truth.json"
    steps: list[int] = []
    done: list[None] = []

    def bar(count: int) -> object:
        steps.append(count)
        return lambda: done.append(None)

    made = measure(
        spoiled,
        reports,
        out,
        data=DATA,
        ops=LANGUAGE,
        shares=SHARES,
        progress=bar,  # type: ignore[arg-type]
    )
    assert read_artifact(out, Truth) == made
    assert "heuristic:range" in out.with_suffix(".md").read_text()
    assert len(done) <= steps[0]
    return made


def test_the_planted_group_is_the_most_damaging(spoiled: Loaded, found: Truth) -> None:
    op = list_ops(spoiled.model, spoiled.layout, include=LANGUAGE.include).candidates[4]
    worst = max(found.groups, key=lambda group: group.kl.value)
    assert worst.group == op.group
    assert op.name in worst.ops
    assert found.held_out


def test_yardsticks_bound_the_lenses(found: Truth) -> None:
    orders = {order.label: order for order in found.orders}
    assert set(orders) == {
        "heuristic:range",
        "heuristic:size",
        "measured",
        "measured per byte",
        "inverted",
        "random 1",
        "random 2",
        "random 3",
    }
    assert orders["measured"].area.value < orders["inverted"].area.value / 2
    for order in orders.values():
        # All end at the same place: everything quantized.
        assert order.curve[-1].share == pytest.approx(1)
        assert order.curve[-1].kl == orders["measured"].curve[-1].kl
        assert len(order.curve) == len(SHARES) + 1
    assert found.best in ("heuristic:range", "heuristic:size")
    for label in ("heuristic:range", "heuristic:size"):
        assert orders[label].spearman is not None
        assert (orders[label].area_more is None) == (label == found.best)
        assert orders[label].seconds is not None


def test_the_area_is_the_trapezoids_of_the_curve(found: Truth) -> None:
    for order in found.orders:
        shares = [0.0, *(point.share for point in order.curve)]
        values = [0.0, *(point.kl.value for point in order.curve)]
        area = sum(
            (shares[i] - shares[i - 1]) * (values[i] + values[i - 1]) / 2
            for i in range(1, len(shares))
        )
        assert order.area.value == pytest.approx(area, rel=1e-6)


def test_prefixes_are_as_near_to_a_share_as_whole_groups_allow() -> None:
    groups = [
        TruthGroup(name=str(n), component="c", ops=(str(n),), weight_bytes=size)
        for n, size in enumerate([10, 30, 20, 40])
    ]
    few, least, every = _prefixes(groups, (0.35, 0.01))
    assert [g.name for g in few] == ["0", "1"]
    assert [g.name for g in least] == ["0"]
    assert len(every) == 4


def test_a_lens_of_damages_is_followed_per_byte_too_and_a_rule_of_thumb_is_not(
    spoiled: Loaded, reports: list[Path]
) -> None:
    table = list_ops(spoiled.model, spoiled.layout, include=LANGUAGE.include)
    groups = groups_of(table.candidates, 4)
    report = read_artifact(reports[0], SensitivityReport)
    # Every group has the same score, so that per byte the largest is the least sensitive.
    even = tuple(
        op.model_copy(update={"score": 1 / sum(o.group == op.group for o in report.ops)})
        for op in report.ops
    )
    native = report.model_copy(update={"lens": "native:kl", "ops": even})
    thumb, by_score, by_rate = orders_of([report, native], groups)
    assert [order.label for order in (thumb, by_score, by_rate)] == [
        "heuristic:range",
        "native:kl",
        "native:kl per byte",
    ]
    assert [order.per_byte for order in (thumb, by_score, by_rate)] == [False, False, True]
    sizes = {group.name: group.weight_bytes for group in groups}
    ordered = [sizes[name] for name in by_rate.groups]
    assert ordered == sorted(ordered, reverse=True)
    assert by_rate.scores == by_score.scores


def test_per_byte_costs_least_on_the_way_where_damages_add_up() -> None:
    damages = {"a": 1.0, "b": 2.0, "c": 0.5, "d": 4.0}
    sizes = {"a": 10, "b": 60, "c": 2, "d": 5}
    groups = [
        TruthGroup(name=name, component="c", ops=(name,), weight_bytes=size)
        for name, size in sizes.items()
    ]

    def area(order: tuple[str, ...]) -> float:
        total = found = 0.0
        for name in order:
            found += sizes[name] * (total + damages[name] / 2)
            total += damages[name]
        return found

    orders = {order.label: order.groups for order in yardsticks_of(groups, damages, 0)}
    least = min(area(order) for order in permutations(damages))
    assert area(orders["measured per byte"]) == least < area(orders["measured"])


def test_groups_hold_the_bytes_of_their_weights() -> None:
    op = {"type": "Linear", "component": "language", "block": 0, "params": 0}
    ops = [
        Op(name="a.q", group="a.qk", shape=(4, 8), **op),
        Op(name="a.k", group="a.qk", shape=(2, 8), **op),
    ]
    (group,) = groups_of(ops, 2)
    assert (group.weight_bytes, group.ops) == (2 * math.prod((6, 8)), ("a.k", "a.q"))


def test_reports_of_other_weights_are_refused(
    spoiled: Loaded, reports: list[Path], tmp_path: Path
) -> None:
    report = read_artifact(reports[0], SensitivityReport)
    model = report.provenance.model.model_copy(update={"weights_fingerprint": "0" * 64})
    other = report.model_copy(
        update={"provenance": report.provenance.model_copy(update={"model": model})}
    )
    write_artifact(tmp_path / "other.json", other)
    with pytest.raises(UserError, match="other weights"):
        measure(
            spoiled,
            [tmp_path / "other.json"],
            tmp_path / "truth.json",
            data=DATA,
            ops=LANGUAGE,
            progress=lambda _: lambda: None,
        )
    assert not (tmp_path / "truth.json").exists()


def test_a_ranking_made_on_other_samples_of_the_data_is_refused(
    spoiled: Loaded, reports: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="heuristic:range was made on other samples"):
        measure(
            spoiled,
            reports,
            tmp_path / "truth.json",
            data=DATA.model_copy(update={"seed": 1}),
            ops=LANGUAGE,
            progress=lambda _: pytest.fail("nothing is to be measured"),
        )
    assert not (tmp_path / "truth.json").exists()


def test_a_directory_without_a_run_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["truth", str(tmp_path)]) == 1
    assert "run.json" in capsys.readouterr().err
