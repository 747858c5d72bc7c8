from __future__ import annotations

from quantspectrum.spectrum.legality import torn_groups
from spectrum.spectrum_cases import report

CANDIDATES = report("w8a8", [("a.q", "a.qkv", 1), ("a.k", "a.qkv", 1), ("a.o", "a.o", 1)]).ops


def test_whole_groups_are_not_torn() -> None:
    assert torn_groups({}, CANDIDATES) == []
    assert torn_groups({"a.q": "w8a8", "a.k": "w8a8"}, CANDIDATES) == []
    assert torn_groups({"a.q": "w8a8", "a.k": "w8a8", "a.o": "fp8"}, CANDIDATES) == []


def test_high_precision_beside_a_format_is_torn() -> None:
    (torn,) = torn_groups({"a.q": "w8a8"}, CANDIDATES)
    assert torn.name == "a.qkv"
    assert torn.formats == {"a.q": "w8a8", "a.k": "bf16"}
    assert "fuses the ops of a.qkv" in str(torn)
    assert "q in w8a8" in str(torn)
    assert "k in bf16" in str(torn)


def test_two_formats_in_one_group_are_torn() -> None:
    (torn,) = torn_groups({"a.q": "w8a8", "a.k": "fp8"}, CANDIDATES)
    assert set(torn.formats.values()) == {"w8a8", "fp8"}


def test_ops_that_are_no_candidates_are_not_looked_at() -> None:
    assert torn_groups({"elsewhere.q": "w8a8"}, CANDIDATES) == []
