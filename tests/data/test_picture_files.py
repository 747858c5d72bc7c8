from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quantspectrum.data.sources import load_samples, parse_spec
from quantspectrum.data.splits import make_splits
from quantspectrum.errors import UserError

Picture = Callable[..., Path]


def test_every_picture_of_a_folder_is_a_sample(picture: Picture, tmp_path: Path) -> None:
    for name in ("b.png", "a/c.JPG", "a/b/d.webp"):
        picture(f"pictures/{name}")
    (tmp_path / "pictures/notes.txt").write_text("no picture")
    assert parse_spec("images:x/y") == ("images", "x/y")
    samples = load_samples(f"images:{tmp_path / 'pictures'}")
    assert [sample.id for sample in samples] == ["a/b/d.webp", "a/c.JPG", "b.png"]
    assert all((s.text, s.prompt) == ("", None) for s in samples)
    assert samples[-1].image == tmp_path / "pictures/b.png"


def test_a_missing_folder_and_an_empty_one_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent does not exist; give the folder"):
        load_samples(f"images:{tmp_path / 'absent'}")
    with pytest.raises(UserError, match=r"holds no picture files \(\.bmp, "):
        load_samples(f"images:{tmp_path}")


def test_a_broken_picture_is_named(picture: Picture, tmp_path: Path) -> None:
    picture("good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"bad\.png is not an image"):
        load_samples(f"images:{tmp_path}")


def test_splits_of_pictures_are_disjoint_and_equal_ones_stay_together(
    picture: Picture, tmp_path: Path
) -> None:
    for size in range(9):
        path = picture(f"{size}.png", 20 + size, 20)
        (tmp_path / f"copy {size}.png").write_bytes(path.read_bytes())

    def draw(seed: int) -> list[set[str]]:
        splits = make_splits(
            [f"images:{tmp_path}"], images=None, calibration=3, selection=3, evaluation=3, seed=seed
        )
        parts = (splits.calibration, splits.selection, splits.evaluation)
        return [{s.id.removeprefix("copy ") for s in part} for part in parts]

    drawn = draw(0)
    assert [len(part) for part in drawn] == [3, 3, 3]
    assert len(set.union(*drawn)) == 9
    assert draw(0) == drawn
    assert draw(1) != drawn
