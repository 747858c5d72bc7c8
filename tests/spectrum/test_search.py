"""The search over choices of groups, with damage that is made up."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from quantspectrum.spectrum.search import Step, search

Tried = list[tuple[Step, tuple[int, ...], bool]]


def run(
    sizes: list[int], limit: float, damage: list[float], trials: int
) -> tuple[tuple[int, ...], Tried]:
    """Search where damages add up."""
    tried: Tried = []

    def fits(step: Step, places: tuple[int, ...]) -> bool:
        tried.append((step, places, sum(damage[p] for p in places) <= limit))
        return tried[-1][2]

    return search(sizes, fits, trials=trials), tried


@given(
    st.lists(st.integers(1, 9), min_size=0, max_size=20), st.integers(1, 40), st.integers(0, 10**6)
)
def test_whatever_damage_does_the_result_was_tried_and_kept_to_the_budget(
    sizes: list[int], trials: int, seed: int
) -> None:
    rng = random.Random(seed)
    verdicts: dict[tuple[int, ...], bool] = {}

    def fits(_step: Step, places: tuple[int, ...]) -> bool:
        assert places not in verdicts
        assert list(places) == sorted(set(places))
        verdicts[places] = rng.random() < 0.5
        return verdicts[places]

    best = search(sizes, fits, trials=trials)
    assert len(verdicts) <= trials
    assert best == () or verdicts[best]
    kept = [sum(sizes[p] for p in places) for places, kept in verdicts.items() if kept]
    assert sum(sizes[p] for p in best) == max(kept, default=0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0, 5))
def test_additive_damage_in_order_gives_the_longest_prefix_at_least(
    damage: list[float], limit: float
) -> None:
    damage.sort()
    best, _ = run([1] * len(damage), limit, damage, trials=200)
    longest = max(n for n in range(len(damage) + 1) if sum(damage[:n]) <= limit)
    assert len(best) >= longest


def test_everything_is_tried_first() -> None:
    best, tried = run([1, 1], 10, [1, 1], 5)
    assert best == (0, 1)
    assert tried == [("whole", (0, 1), True)]


def test_a_group_ranked_too_low_is_left_out_and_those_beyond_are_added() -> None:
    damage = [0.1, 0.1, 0.1, 50.0, 0.1, 0.1, 0.1, 0.1]
    best, tried = run([1] * 8, 1.0, damage, 24)
    assert best == (0, 1, 2, 4, 5, 6, 7)
    assert {step for step, _, _ in tried} == {"whole", "bisect", "add"}


def test_the_first_group_may_be_the_one_that_fails() -> None:
    best, _ = run([1] * 4, 1.0, [50.0, 0.1, 0.1, 0.1], 24)
    assert best == (1, 2, 3)


def test_a_smaller_group_makes_room_for_a_larger_one() -> None:
    best, tried = run([1, 2, 9], 1.0, [0.4, 0.5, 0.6], 24)
    assert best == (0, 2)
    assert tried[-1] == ("swap", (0, 2), True)


def test_nothing_fits() -> None:
    best, tried = run([1] * 5, 0.0, [1.0] * 5, 9)
    assert best == ()
    # Everything, the first two, and each group alone.
    assert len(tried) == 1 + 1 + 5


def test_no_group_and_no_trial() -> None:
    assert run([], 1.0, [], 5) == ((), [])
    assert run([1], 1.0, [2.0], 1)[0] == ()
