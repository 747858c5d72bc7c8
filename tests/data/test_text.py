from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantspectrum.data.text import PASSAGE, cut_passages, load_text
from quantspectrum.errors import UserError

LINES = st.one_of(
    st.sampled_from(["", " ", " = Title = ", " = = Part = = ", "# Title", "word " * 150]),
    st.text(alphabet="ab .\t", max_size=3000),
)


@settings(deadline=None)
@given(st.lists(LINES, max_size=30).map("\n".join))
def test_nothing_is_lost_and_nothing_is_far_too_long(text: str) -> None:
    passages = cut_passages(text)
    assert "".join("".join(passages).split()) == "".join(text.split())
    assert all(passage.strip() for passage in passages)
    titles = 30 * len(" = = Part = = ")
    assert all(len(passage) <= PASSAGE * 7 // 4 + titles for passage in passages)
    assert all(len(passage) >= PASSAGE // 4 - 1 for passage in passages[1:]) or len(text) < PASSAGE


def test_lines_stay_whole_and_fill_a_passage() -> None:
    lines = [f"line {number} " + "x" * 90 for number in range(25)]
    passages = cut_passages("\n\n".join(lines))
    assert "\n".join(passages).split("\n") == lines
    assert all(PASSAGE - 100 <= len(passage) <= PASSAGE for passage in passages[:-1])


@pytest.mark.parametrize("heading", ["= Second =", "# Second"])
def test_a_heading_goes_with_what_follows(heading: str) -> None:
    first, second = "a" * 990, "b" * 900
    assert cut_passages(f" {heading} \n{first}\n {heading} \n = = Part = = \n \n{second}\n") == [
        f"{heading}\n{first}",
        f"{heading}\n= = Part = =\n{second}",
    ]
    # It opens a passage where the one before is half full, even if it would still fit.
    assert cut_passages(f"{'a' * 600}\n{heading}\n{'b' * 300}") == [
        "a" * 600,
        f"{heading}\n{'b' * 300}",
    ]


def test_a_long_line_is_cut_after_a_sentence_else_at_a_space_else_anywhere() -> None:
    sentence = "s" * 298 + ". "
    assert cut_passages(sentence * 6)[0] == (sentence * 3).rstrip()
    assert len(cut_passages("word " * 400)[0]) == PASSAGE - 1
    assert [len(passage) for passage in cut_passages("x" * 2600)] == [1000, 1000, 600]


def test_a_short_rest_joins_the_passage_before() -> None:
    assert cut_passages("a" * 1000 + "\nend") == ["a" * 1000 + "\nend"]
    assert cut_passages("end") == ["end"]


def test_a_sample_is_named_by_its_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_text("\ufeff\n" + "a" * 900 + "\n\n" + "b" * 900)
    samples = load_text(str(file), None)
    assert [(s.id, s.text[0]) for s in samples] == [("some.txt:2", "a"), ("some.txt:4", "b")]
    assert all(s.prompt is None and s.unit == "" for s in samples)


def test_a_file_of_white_space_has_no_text(tmp_path: Path) -> None:
    file = tmp_path / "blank.txt"
    file.write_text(" \n\n\t")
    with pytest.raises(UserError, match=r"blank\.txt holds no text"):
        load_text(str(file), None)


def test_wikitext_headings_open_their_passages(assets: Path) -> None:
    samples = load_text(str(assets / "text/wiki.test.raw"), None)
    assert len({sample.id for sample in samples}) == len(samples)
    assert not any(sample.text.splitlines()[-1].startswith("= ") for sample in samples)
    lengths = [len(sample.text) for sample in samples]
    assert 700 < sum(lengths) / len(lengths) < 1100
