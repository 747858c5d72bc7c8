from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from quantspectrum.artifacts import (
    Coverage,
    Environment,
    ModelIdentity,
    OpNote,
    OpScore,
    Profile,
    Provenance,
    SensitivityReport,
    Spectrum,
    read_artifact,
    sha256_file,
    write_artifact,
    write_text,
)
from quantspectrum.errors import UserError
from quantspectrum.formats import preset

PROVENANCE = Provenance(
    created="2026-11-24T00:00:00+00:00",
    environment=Environment(
        tool_version="0.1.0",
        git_sha=None,
        python="3.11",
        platform="Linux",
        packages={"torch": "2.14.1"},
        device="cpu",
        device_name="made up",
        cpus=2,
    ),
    model=ModelIdentity(
        id="tiny",
        model_type="llama",
        config_hash="c",
        weights_fingerprint="w",
        dtype="float32",
        parameters=10,
    ),
    wall_s=1.5,
)
OP = OpScore(
    name="layers.0.q_proj",
    type="Linear",
    component="language",
    block=0,
    group="layers.0.qkv_proj",
    shape=(4, 4),
    params=16,
    score=0.1 + 0.2,
    stderr=1e-300,
    n=3,
    rank=1,
    raw={"sse": 1 / 3},
    input_range=(-1.0, 2.5),
)
REPORT = SensitivityReport(
    lens="native:mse_v2",
    base="isolate",
    format=preset("w8a8-static"),
    provenance=PROVENANCE,
    complete=True,
    coverage=Coverage(
        found=2, scored=1, kept=(OpNote(name="lm_head", type="Linear", reason="größer – 頭"),)
    ),
    ops=(OP,),
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    write_artifact(path, REPORT)
    return path


@pytest.fixture
def edited(written: Path) -> Callable[..., Path]:
    """The written report with some keys changed."""

    def edit(change: Callable[[dict[str, Any]], object]) -> Path:
        raw = json.loads(written.read_text())
        change(raw)
        written.write_text(json.dumps(raw))
        return written

    return edit


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_artifact(path, SensitivityReport)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def says_what_to_do(message: str) -> bool:
    return any(way in message for way in ("again", "give ", "choose ", "use "))


def test_round_trip_is_exact(written: Path) -> None:
    assert read_artifact(written, SensitivityReport) == REPORT


def test_files_are_utf8_json_with_a_final_newline(written: Path) -> None:
    text = written.read_bytes().decode("utf-8")
    assert text.endswith("}\n")
    assert "größer – 頭" in text
    raw = json.loads(text)
    assert (raw["kind"], raw["schema_version"]) == ("sensitivity", 1)


def test_the_same_record_gives_the_same_bytes(written: Path, tmp_path: Path) -> None:
    write_artifact(tmp_path / "again.json", read_artifact(written, SensitivityReport))
    assert (tmp_path / "again.json").read_bytes() == written.read_bytes()


def test_records_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        REPORT.complete = False  # type: ignore[misc]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["score", "stderr", "raw", "input_range"])
def test_records_hold_finite_numbers_only(field: str, value: float) -> None:
    wrapped: Any = {"raw": {"sse": value}, "input_range": (0.0, value)}.get(field, value)
    with pytest.raises(ValidationError, match="finite"):
        OpScore.model_validate(OP.model_dump() | {field: wrapped})


def test_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a/b/report.json"
    write_artifact(path, REPORT)
    assert read_artifact(path, SensitivityReport) == REPORT


def test_nothing_else_is_left_beside_it(written: Path) -> None:
    assert os.listdir(written.parent) == [written.name]


def test_a_failed_rename_leaves_the_old_content(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written.read_bytes()

    def fail(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(UserError, match=r"report.json: No space left on device; free space"):
        write_text(written, "new")
    assert written.read_bytes() == before
    assert os.listdir(written.parent) == [written.name]


def test_a_full_disk_leaves_the_old_content(
    written: Path, file_size_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    before = written.read_bytes()
    with file_size_limit(1000), pytest.raises(UserError, match=r"cannot write .*report.json"):
        write_text(written, "x" * 100_000)
    assert written.read_bytes() == before
    assert os.listdir(written.parent) == [written.name]


def test_an_interrupted_write_leaves_the_old_content(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written.read_bytes()

    def interrupt(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(written, "new")
    assert written.read_bytes() == before
    assert os.listdir(written.parent) == [written.name]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/report\.json.*choose another --out"):
        write_text(tmp_path / "file/report.json", "text")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    message = refusal(tmp_path / "absent.json")
    assert "does not exist" in message
    assert says_what_to_do(message)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert says_what_to_do(refusal(tmp_path))


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"kind": "sensitivity",}', b"\xff\xfe{}", b"not json"]
)
def test_bad_json_is_refused(written: Path, content: bytes) -> None:
    written.write_bytes(content)
    message = refusal(written)
    assert "not readable as JSON" in message
    assert says_what_to_do(message)


def test_a_truncated_record_is_refused(written: Path) -> None:
    written.write_bytes(written.read_bytes()[:-20])
    assert says_what_to_do(refusal(written))


@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"', "{}", '{"kind": "spectrum"}'])
def test_another_kind_is_refused(written: Path, content: str) -> None:
    written.write_text(content)
    message = refusal(written)
    assert "not a sensitivity record" in message
    assert says_what_to_do(message)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_an_unknown_version_is_refused(edited: Callable[..., Path], version: object) -> None:
    message = refusal(edited(lambda raw: raw.update(schema_version=version)))
    assert f"version {version}" in message
    assert says_what_to_do(message)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda raw: raw.update(extra=1), "extra"),
        (lambda raw: raw["ops"][0].update(extra=1), "ops.0.extra"),
        (lambda raw: raw.pop("lens"), "lens"),
        (lambda raw: raw["ops"][0].update(score="high"), "ops.0.score"),
        (lambda raw: raw["ops"][0].update(score=float("nan")), "ops.0.score"),
        (lambda raw: raw["ops"][0]["raw"].update(sse=float("inf")), "ops.0.raw.sse"),
        (lambda raw: raw["format"]["weight"].update(bits=16), "format.weight.bits"),
    ],
    ids=["unknown key", "unknown inner key", "missing key", "type", "nan", "infinity", "bits"],
)
def test_a_wrong_field_is_named(
    edited: Callable[..., Path], change: Callable[[dict[str, Any]], object], where: str
) -> None:
    message = refusal(edited(change))
    assert where in message
    assert says_what_to_do(message)


def test_an_unknown_profile_lists_those_there_are() -> None:
    profile = Profile(name="mild", share=0.5, groups=1, ops={}, predicted_damage=0.0)
    spectrum = Spectrum(
        model=PROVENANCE.model,
        lens="native:mse_v2",
        base="isolate",
        report_sha256="r",
        formats={},
        candidates=(),
        profiles=(profile, profile.model_copy(update={"name": "max"})),
    )
    assert spectrum.profile("mild") is profile
    with pytest.raises(UserError, match=r"'wild'.*mild, max"):
        spectrum.profile("wild")


def test_sha256_is_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 100_000)
    assert sha256_file(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()
