from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from quantspectrum.data.images import find_image, load_image, picture_key, verify_image
from quantspectrum.data.pictures import disc, gradient, squares
from quantspectrum.errors import UserError


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    image = gradient(12, 9).convert(mode)
    assert load_image(image, "here").mode == "RGB"
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    image.save(path)
    verify_image(path, "here")
    loaded = load_image(path, "here")
    assert (loaded.mode, loaded.size) == ("RGB", (12, 9))


def test_the_orientation_of_a_camera_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    gradient(12, 8).save(tmp_path / "a.png", exif=exif)
    assert load_image(tmp_path / "a.png", "here").size == (8, 12)


def test_a_truncated_picture_passes_the_cheap_check_and_fails_to_load(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    gradient(64, 64).save(path)
    path.write_bytes(path.read_bytes()[:-400])
    verify_image(path, "rows:3")
    with pytest.raises(UserError, match=r"rows:3: .*cut\.jpg is not an image"):
        load_image(path, "rows:3")


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + bytes(40), b"text"])
def test_other_files_are_refused_by_both_checks(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for check in (verify_image, load_image):
        with pytest.raises(UserError, match=r"here: .*a\.png is not an image"):
            check(path, "here")


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    for check in (verify_image, load_image):
        with pytest.raises(UserError, match=r"here: image .*a\.png does not exist"):
            check(tmp_path / "a.png", "here")


def test_a_decompression_bomb_is_a_users_error(
    picture: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = picture("big.png", 40, 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"big\.png is not an image"):
        verify_image(path, "here")


def test_the_files_folder_is_searched_before_the_image_folder(
    tmp_path: Path, picture: Callable[..., Path]
) -> None:
    mine, theirs = picture("mine/a.png"), picture("theirs/a.png")
    assert find_image("a.png", tmp_path / "mine", tmp_path / "theirs", "here") == mine
    mine.unlink()
    assert find_image("a.png", tmp_path / "mine", tmp_path / "theirs", "here") == theirs
    assert find_image("b/../a.png", tmp_path / "theirs", None, "here") == theirs


def test_a_folder_with_the_same_beginning_is_another(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lies outside"):
        find_image("../mine-too/a.png", tmp_path / "mine", None, "here")


def test_equal_files_have_equal_keys(picture: Callable[..., Path]) -> None:
    one, same, other = picture("a.png"), picture("b.png"), picture("c.png", 31)
    assert picture_key(one) == picture_key(same) != picture_key(other)
    assert picture_key(gradient(9, 9)) == picture_key(gradient(9, 9)) != picture_key(gradient(9, 8))


def test_synthetic_pictures_show_what_they_say() -> None:
    corners = [gradient(5, 5).getpixel(place) for place in ((0, 0), (4, 0), (0, 4))]
    assert corners == [(0, 0, 0), (255, 0, 12), (0, 255, 20)]
    colors = disc(100, (9, 8, 7)).getcolors() or []
    assert {color: round(n / 1e4, 2) for n, color in colors} == {
        (9, 8, 7): 0.2,  # pi / 16
        (255, 255, 255): 0.8,
    }
    row = [squares(70, 3, (1, 2, 3)).getpixel((x, 35)) == (1, 2, 3) for x in range(70)]
    starts = [x for x in range(1, 70) if row[x] and not row[x - 1]]
    assert (starts, sum(row)) == ([10, 30, 50], 30)
