"""Wrong input: one sentence that says what, where and what to do; exit code 1; nothing written."""

from __future__ import annotations

import errno
import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from integration.runs import SMALL
from quantspectrum.artifacts import check_writable
from quantspectrum.cli import main
from quantspectrum.demo import model_dir


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the embedded model to damage."""
    return Path(shutil.copytree(model_dir(), tmp_path / "model"))


def sensitivity(model: Path | str, out: Path, *more: str) -> list[str]:
    command = ["sensitivity", str(model), "--out", str(out / "s.json"), "--quiet"]
    data = () if "--data" in more else ("--data", "demo")
    few = ("--samples", "2", "--calibration", "2", "--eval-samples", "2")
    return [*command, "--device", "cpu", "--format", "w8a8-static", *few, *data, *more]


def test_missing_directory(fails, tmp_path: Path) -> None:
    message = fails(sensitivity("./nowhere", tmp_path))
    assert "./nowhere does not exist" in message


def test_directory_without_model(fails, tmp_path: Path) -> None:
    assert "config.json" in fails(sensitivity(tmp_path, tmp_path))


def test_no_such_op_pattern(fails, tmp_path: Path) -> None:
    message = fails(sensitivity(model_dir(), tmp_path, "--exclude", "no_such_proj"))
    assert "no_such_proj" in message
    assert "quantspectrum ops" in message
    assert not (tmp_path / "s.json").exists()


def test_nothing_left_to_score(fails, tmp_path: Path) -> None:
    assert "no op is left" in fails(sensitivity(model_dir(), tmp_path, "--exclude", "*"))


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ("range", "--lens heuristic:range and no --metric"),
        ("gradient", "--lens modelopt:gradient and no --metric"),
        ("inc:tune", "--lens inc:tune and no --metric"),
        ("nothing", "choose from mse_v2, kl, nll"),
    ],
)
def test_a_metric_that_is_a_lens_is_pointed_to(
    metric: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(sensitivity(model_dir(), tmp_path, "--lens", "heuristic", "--metric", metric))
    assert ended.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"{metric!r} is no metric of the native lens" in message
    assert says in message
    assert ("it is a lens" in message) is (metric != "nothing")
    assert not (tmp_path / "s.json").exists()


def test_a_lens_is_named_whole(fails, tmp_path: Path) -> None:
    message = fails(sensitivity(model_dir(), tmp_path, "--lens", "inc", "--metric", "mse_v2"))
    assert "give --lens inc:mse_v2, without --metric" in message
    message = fails(sensitivity(model_dir(), tmp_path, "--lens", "inc:tune", "--metric", "kl"))
    assert "give --lens or --metric, not both" in message


def test_truncated_safetensors(fails, model: Path, tmp_path: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    message = fails(sensitivity(model, tmp_path))
    assert "model.safetensors" in message
    assert "bytes" in message


def test_garbage_safetensors(fails, model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").write_bytes(b"not a tensor file")
    assert "is not a safetensors file" in fails(sensitivity(model, tmp_path))


def test_pickled_weights_only(fails, model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "safetensors" in fails(sensitivity(model, tmp_path))


def test_broken_config(fails, model: Path, tmp_path: Path) -> None:
    (model / "config.json").write_text("{")
    assert "config" in fails(sensitivity(model, tmp_path))


def test_image_that_is_none(fails, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("hello")
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "what?", "text": "a", "image": "photo.jpg"}) + "\n")
    message = fails(sensitivity(model_dir(), tmp_path, "--data", f"jsonl:{data}"))
    assert "photo.jpg" in message
    assert "not an image" in message


def test_wrong_json(fails, tmp_path: Path) -> None:
    data = tmp_path / "captions.json"
    data.write_text('{"images": [')
    assert "captions.json" in fails(sensitivity(model_dir(), tmp_path, "--data", f"coco:{data}"))


def test_empty_data_set(fails, tmp_path: Path) -> None:
    data = tmp_path / "empty.txt"
    data.write_text("\n\n")
    assert "empty.txt" in fails(sensitivity(model_dir(), tmp_path, "--data", f"text:{data}"))


def test_too_few_samples(fails, tmp_path: Path) -> None:
    data = tmp_path / "short.txt"
    data.write_text("One short passage.\n")
    fails(sensitivity(model_dir(), tmp_path, "--data", f"text:{data}"))


def test_pictures_for_a_model_that_takes_text(fails, tmp_path: Path) -> None:
    text_only = Path(__file__).parents[3] / "shared/assets/models/stories260k"
    if not text_only.is_dir():
        pytest.skip("needs a text-only model that is not part of this repository")
    fails(sensitivity(text_only, tmp_path))


def test_sensitivity_report_that_is_none(fails, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text('{"kind": "spectrum", "schema_version": 1}')
    message = fails(["spectrum", str(path), "--out", str(tmp_path / "out.json")])
    assert "is not a sensitivity record" in message
    assert not (tmp_path / "out.json").exists()


def test_out_that_is_not_json(fails, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert ".json" in fails(["spectrum", str(path), "--out", str(tmp_path / "out.txt")])


def test_directory_of_something_else(fails, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    message = fails(["run", str(model_dir()), "--out", str(tmp_path), *SMALL])
    assert "not empty" in message
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("command", ["evaluate", "sensitivity", "latency", "guard"])
@pytest.mark.parametrize("out", ["notes.txt/o.json", "folder.json"])
def test_out_that_takes_no_file_is_told_before_anything_is_loaded(
    fails, tmp_path: Path, command: str, out: str
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder.json").mkdir()
    spectrum = ("--spectrum", "nowhere.json") if command == "guard" else ()
    message = fails([command, "./nowhere", *spectrum, "--out", str(tmp_path / out)])
    assert str(tmp_path / out) in message
    assert "nowhere" not in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.json", "notes.txt"]


def test_checking_a_place_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "a/b/o.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--lens", "native:kl"), "give --metric"),
        (("--lens", "heuristic:range", "--slots", "3"), "--slots is of the native lens"),
        (("--lens", "heuristic:range", "--attribute"), "--attribute is of the native lens"),
        (("--lens", "heuristic:range", "--format", "fp8"), "one format a call"),
    ],
)
def test_options_that_a_lens_would_not_heed(
    fails, tmp_path: Path, more: tuple[str, ...], told: str
) -> None:
    assert told in fails(sensitivity("./nowhere", tmp_path, *more))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--model", "./nowhere"), "does not exist"),
        (("--model", str(model_dir()), "--quality-name", "mild"), "profile called 'mild'"),
    ],
)
def test_quality_that_cannot_be_searched_writes_no_spectrum(
    fails, tmp_path: Path, more: tuple[str, ...], told: str
) -> None:
    out = str(tmp_path / "out.json")
    command = ["spectrum", "./none.json", "--out", out, "--max-quality", "kl 0.1"]
    assert told in fails([*command, *more])
    assert list(tmp_path.iterdir()) == []


def test_file_in_place_of_a_run_directory(fails, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    out = str(tmp_path / "notes.txt")
    assert "is a file" in fails(["run", str(model_dir()), "--out", out, *SMALL])
    assert "is a file" in fails(["compare", out])
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_directory_in_place_of_a_record(fails, tmp_path: Path) -> None:
    message = fails(["spectrum", str(tmp_path), "--out", str(tmp_path / "out.json")])
    assert "is a directory; give the file of a sensitivity record" in message


def test_file_of_scores_that_is_not_there_leaves_nothing(fails, tmp_path: Path) -> None:
    missing = str(tmp_path / "scores.json")
    assert missing in fails(sensitivity(model_dir(), tmp_path, "--lens", f"import:{missing}"))
    assert list(tmp_path.iterdir()) == []


def test_name_that_is_neither_here_nor_on_the_hub(
    fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "no directory of that name is here" in fails(["ops", "typo"])


def test_unknown_device(fails, tmp_path: Path) -> None:
    assert "device" in fails(sensitivity(model_dir(), tmp_path, "--device", "tpu"))


def test_wrong_usage_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["run", "x", "--out", "y"]
    for arguments in (
        ["run"],
        ["no-such-command"],
        [*given, "--samples", "0"],
        [*given, "--rescore", "-1"],
    ):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
class TestAgainstARun:
    def quantize(self, run: Path, out: Path, *more: str) -> list[str]:
        command = ["quantize", str(model_dir()), "--spectrum", str(run / "spectrum.json")]
        return [*command, "--profile", "mild", "--out", str(out), "--device", "cpu", *more]

    def test_unknown_profile(self, fails, finished_run: Path, tmp_path: Path) -> None:
        command = self.quantize(finished_run, tmp_path / "v", "--profile", "wild")
        assert "it has: baseline, mild, medium, aggressive, max" in fails(command)

    def test_unknown_backend(self, fails, finished_run: Path, tmp_path: Path) -> None:
        command = self.quantize(finished_run, tmp_path / "v", "--backend", "abacus")
        assert "compressed-tensors" in fails(command)

    def test_output_that_exists(self, fails, finished_run: Path, tmp_path: Path) -> None:
        assert "exists already" in fails(self.quantize(finished_run, tmp_path))

    def test_no_disk_space(
        self, fails, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 0))
        assert "GB left" in fails(self.quantize(finished_run, tmp_path / "v"))
        assert list(tmp_path.iterdir()) == []

    def test_disk_that_fills_up_while_writing(
        self, fails, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[None] = []

        def full(file: Any, content: bytes) -> None:
            """A header fits, and no tensor after it."""
            if written:
                raise OSError(errno.ENOSPC, "No space left on device")
            file.write(content)
            written.append(None)

        monkeypatch.setattr("quantspectrum.backends.checkpoint._write_all", full)
        assert "No space left on device" in fails(self.quantize(finished_run, tmp_path / "v"))
        assert written
        assert list(tmp_path.iterdir()) == []

    def test_spectrum_of_another_model(self, fails, finished_run: Path, tmp_path: Path) -> None:
        made = json.loads((finished_run / "spectrum.json").read_text())
        made["model"]["weights_fingerprint"] = "0" * 64
        other = tmp_path / "spectrum.json"
        other.write_text(json.dumps(made))
        command = self.quantize(finished_run, tmp_path / "v", "--spectrum", str(other))
        assert "make a spectrum of them" in fails(command)

    def test_run_asked_for_something_else(self, fails, finished_run: Path) -> None:
        command = ["run", str(model_dir()), "--out", str(finished_run), *SMALL, "--seed", "7"]
        assert "another seed" in fails(command)

    def test_run_record_of_the_future(self, fails, finished_run: Path, tmp_path: Path) -> None:
        record = json.loads((finished_run / "run.json").read_text())
        record["schema_version"] = 99
        (tmp_path / "run.json").write_text(json.dumps(record))
        assert "schema version 99" in fails(["compare", str(tmp_path)])
