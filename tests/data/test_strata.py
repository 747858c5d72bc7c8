from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantspectrum.data.strata import balanced_sequence, even_shares

CAPACITIES = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 40), min_size=1)


@settings(deadline=None)
@given(CAPACITIES, st.data())
def test_even_shares_sum_up_and_fit(capacities: dict[str, int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(capacities.values())))
    shares = even_shares(capacities, total)
    assert list(shares) == list(capacities)
    assert sum(shares.values()) == total
    assert all(0 <= shares[s] <= capacities[s] for s in capacities)
    # Even: who has less than another has given all, but for a remainder of one.
    assert all(
        shares[s] == capacities[s] or shares[s] >= max(shares.values()) - 1 for s in capacities
    )


def test_what_a_small_stratum_lacks_the_others_give() -> None:
    assert even_shares({"a": 100, "b": 2, "c": 100}, 20) == {"a": 9, "b": 2, "c": 9}
    assert even_shares({"a": 5, "b": 5}, 3) == {"a": 1, "b": 2}
    with pytest.raises(AssertionError):
        even_shares({"a": 1}, 2)


@settings(deadline=None)
@given(CAPACITIES, st.data())
def test_every_part_has_its_length_and_all_in_proportion(
    shares: dict[str, int], data: st.DataObject
) -> None:
    total = sum(shares.values())
    first = data.draw(st.integers(0, total))
    second = data.draw(st.integers(0, total - first))
    lengths = (first, second, total - first - second)
    parts = balanced_sequence(shares, lengths)
    assert tuple(part.total() for part in parts) == lengths
    assert {s: sum(part[s] for part in parts) for s in shares} == shares
    for part, length in zip(parts, lengths, strict=True):
        for stratum, share in shares.items():
            assert abs(part[stratum] - length * share / max(total, 1)) < len(shares)


def test_two_even_strata_stay_even_in_every_part() -> None:
    parts = balanced_sequence({"a": 16, "b": 16}, (8, 8, 16))
    assert [dict(part) for part in parts] == [{"a": 4, "b": 4}, {"a": 4, "b": 4}, {"a": 8, "b": 8}]


def test_a_small_stratum_stands_in_the_middle_of_the_line() -> None:
    parts = balanced_sequence({"a": 9, "b": 1}, (3, 4, 3))
    assert [dict(part) for part in parts] == [{"a": 3}, {"a": 3, "b": 1}, {"a": 3}]
