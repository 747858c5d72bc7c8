from __future__ import annotations

from pathlib import Path

import pytest

from quantspectrum.data.sources import SOURCES, load_samples, parse_spec
from quantspectrum.errors import UserError


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("demo", ("demo", "")),
        ("coco:anything.txt", ("coco", "anything.txt")),
        ("hub:owner/name:test[:20]", ("hub", "owner/name:test[:20]")),
        ("captions.json", ("coco", "captions.json")),
        ("some/wiki.test.raw", ("text", "some/wiki.test.raw")),
        ("notes.MD", ("text", "notes.MD")),
        ("rows.jsonl", ("jsonl", "rows.jsonl")),
        ("owner/name", ("hub", "owner/name")),
        ("owner/name:train", ("hub", "owner/name:train")),
    ],
)
def test_a_spec_says_or_shows_its_kind(spec: str, meant: tuple[str, str]) -> None:
    assert parse_spec(spec) == meant


@pytest.mark.parametrize("spec", ["", "coco:", "table.csv", "ftp:thing", "imagenet", "demo:x"])
def test_an_unknown_kind_is_refused_with_the_known_ones(spec: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_spec(spec)
    assert repr(spec) in str(caught.value)
    for kind in ("demo", *SOURCES):
        assert kind in str(caught.value)


def test_an_existing_path_is_never_taken_for_a_hub_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner/name").write_text("x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no known kind"):
        parse_spec("owner/name")


@pytest.mark.parametrize("kind", ["coco", "text", "jsonl"])
def test_a_missing_file_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent does not exist; give"):
        load_samples(f"{kind}:{tmp_path / 'absent'}")


@pytest.mark.parametrize("kind", ["coco", "text", "jsonl"])
def test_a_folder_or_bytes_instead_of_text_are_told(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_samples(f"{kind}:{tmp_path}")
    (tmp_path / "latin").write_bytes(b'{"text": "caf\xe9"}')
    with pytest.raises(UserError, match="latin is not UTF-8 text"):
        load_samples(f"{kind}:{tmp_path / 'latin'}")


def test_the_demo_has_no_undivided_whole() -> None:
    with pytest.raises(UserError, match="make_splits"):
        load_samples("demo")


def test_the_real_sources_load(assets: Path) -> None:
    captions = f"{assets}/coco/captions_val2017.json"
    alone = load_samples(captions)
    assert len(alone) == 25_014
    assert all(sample.prompt is None and sample.image is None for sample in alone)
    shown = load_samples(captions, images=assets / "coco/images")
    assert {sample.image.name for sample in shown if isinstance(sample.image, Path)} == {
        file.name for file in (assets / "coco/images").iterdir()
    } & {f"{int(sample.unit.removeprefix('coco:')):012}.jpg" for sample in alone}
    assert {sample.id for sample in shown} < {sample.id for sample in alone}
    assert len(load_samples(f"{assets}/text/wiki.test.raw")) > 1000
