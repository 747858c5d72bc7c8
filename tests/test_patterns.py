from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from quantspectrum.errors import UserError
from quantspectrum.patterns import best_match, check_patterns, matches, specificity

NAME = "model.layers.0.mlp.down_proj"

part = st.from_regex(r"[a-z0-9_]{1,6}", fullmatch=True)
op_names = st.lists(part, min_size=1, max_size=5).map(".".join)
literals = st.lists(part, min_size=1, max_size=3).map(".".join)
globs = literals.map(lambda text: f"*{text}*")
regexes = literals.map(lambda text: f"re:.*{re.escape(text)}.*")
any_pattern = st.one_of(literals, globs, regexes)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (NAME, 4),
        ("down_proj", 3),
        ("mlp.down_proj", 3),
        ("model", 3),
        ("layers.0", 3),
        ("model.layers.0.mlp", 3),
        ("*", 2),
        ("*.layers.0.*", 2),
        ("model.layers.?.mlp.down_proj", 2),
        ("*.layers.[01].*", 2),
        ("re:.*", 1),
        (r"re:model\.layers\.\d+\.mlp\.down_proj", 1),
        # A part is whole, a run of parts is unbroken, a glob and an expression cover the name.
        ("down", 0),
        ("proj", 0),
        ("layers.0.down_proj", 0),
        ("layers.00", 0),
        ("0.mlp.down_proj.weight", 0),
        ("layers.?", 0),
        ("*.layers.1.*", 0),
        ("re:down_proj", 0),
        ("MLP.down_proj", 0),
        ("*.MLP.*", 0),
        ("", 0),
        (".", 0),
    ],
)
def test_specificity(pattern: str, expected: int) -> None:
    assert specificity(NAME, pattern) == expected
    assert matches(NAME, pattern) is (expected > 0)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], None),
        (["q_proj", "*.norm.*"], None),
        # The most specific wins wherever it stands …
        ([NAME, "mlp.down_proj", "*", "re:.*"], 0),
        (["re:.*", "*", "mlp.down_proj", NAME], 3),
        (["re:.*", "mlp.down_proj", "*"], 1),
        (["*", "re:.*"], 0),
        # … among equals the last, however long they are.
        (["model.layers.0.mlp.down_proj"[6:], "mlp"], 1),
        (["*.mlp.down_proj", "*"], 1),
        (["re:model.*", "q_proj", "re:.*"], 2),
        # What does not match has no say.
        (["*", "q_proj"], 0),
    ],
)
def test_precedence(patterns: list[str], expected: int | None) -> None:
    assert best_match(NAME, patterns) == expected


@given(name=op_names)
def test_a_full_name_beats_everything(name: str) -> None:
    assert specificity(name, name) == 4
    assert best_match(name, [name, "*", "re:.*", *name.split(".")[:-1]]) == 0


@given(name=op_names, data=st.data())
def test_every_run_of_whole_parts_matches(name: str, data: st.DataObject) -> None:
    parts = name.split(".")
    start = data.draw(st.integers(0, len(parts) - 1))
    stop = data.draw(st.integers(start + 1, len(parts)))
    assert specificity(name, ".".join(parts[start:stop])) >= 3


@given(name=op_names, pattern=literals)
def test_literals_match_parts_and_nothing_else(name: str, pattern: str) -> None:
    parts, wanted = name.split("."), pattern.split(".")
    runs = [parts[i : i + len(wanted)] for i in range(len(parts))]
    assert matches(name, pattern) == (wanted in runs)


@given(name=op_names, patterns=st.lists(any_pattern, max_size=6))
def test_the_winner_is_the_last_of_the_most_specific(name: str, patterns: list[str]) -> None:
    winner = best_match(name, patterns)
    levels = [specificity(name, pattern) for pattern in patterns]
    if winner is None:
        assert not any(levels)
    else:
        assert levels[winner] == max(levels) > 0
        assert max(levels) not in levels[winner + 1 :]


@given(name=op_names, patterns=st.lists(any_pattern, max_size=5), other=any_pattern)
def test_a_pattern_that_does_not_match_changes_nothing(
    name: str, patterns: list[str], other: str
) -> None:
    assume(not matches(name, other))
    assert best_match(name, [*patterns, other]) == best_match(name, patterns)


def test_a_broken_expression_is_named() -> None:
    with pytest.raises(UserError, match=r"'re:\(' is not a regular expression"):
        specificity(NAME, "re:(")


def test_patterns_that_match_are_accepted() -> None:
    check_patterns([NAME, "lm_head"], ["lm_head", "*.0.*", "re:model.*", "mlp"])


def test_a_pattern_without_a_match_is_named() -> None:
    with pytest.raises(UserError, match=r"'donw_proj'.*`quantspectrum ops MODEL`"):
        check_patterns([NAME, "lm_head"], ["mlp", "donw_proj", "other"])
