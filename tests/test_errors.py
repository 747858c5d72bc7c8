from __future__ import annotations

import pytest

from quantspectrum.errors import UserError, in_one_line, told_when_full


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


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"),
    ],
)
def test_what_does_not_fit_is_told(error: Exception) -> None:
    with (
        pytest.raises(UserError, match=r"^9 rows do not fit into memory; give fewer$"),
        told_when_full("9 rows", "give fewer"),
    ):
        raise error


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="a bug"), told_when_full("9 rows", "give fewer"):
        raise RuntimeError("a bug")
