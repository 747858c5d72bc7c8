from __future__ import annotations

import pytest

from quantspectrum.errors import UserError, in_one_line


def test_a_users_mistake_is_a_value_error_that_keeps_its_sentence() -> None:
    with pytest.raises(ValueError, match=r"^op x is missing; name another$"):
        raise UserError("op x is missing; name another")


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (ValueError("no such\n  file."), "no such file"),
        ("a word too many of them", "a word too …"),
        ("exactly so so", "exactly so so"),
        ("/a/very/long/path/without/end", "/a/very/lon…"),
        (OSError(), ""),
    ],
)
def test_what_a_library_says_is_cut_to_one_line(told: object, line: str) -> None:
    assert in_one_line(told, 13) == line
    assert len(line) <= 13
