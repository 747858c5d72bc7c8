"""No option does nothing in silence: one row an option, refused or told before anything is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

import models_tiny
from quantspectrum.cli import build_parser, main
from quantspectrum.options.heeding import RULES, unheeded
from quantspectrum.options.values import given

SENSITIVITY = ("sensitivity", "./nowhere", "--out", "a.json")
SPECTRUM = ("spectrum", "none.json", "--out", "a.json")
RUN = ("run", "./nowhere", "--out", "a")
QUANTIZE = ("quantize", "./nowhere", "--spectrum", "s.json", "--profile", "p", "--out", "v")
EVALUATE = ("evaluate", "./nowhere", "--out", "a.json")
EXPORT = ("export", "s.json", "--profile", "p", "--out", "a.json", "--to")
QUALITY = ("--max-quality", "kl 1", "--model", "./nowhere")

REFUSED = [
    (("ops", ".", "--revision", "main"), "--revision chooses among the versions on the Hub"),
    ((*SPECTRUM, "--max-quality", "kl 1", "--model", ".", "--revision", "v1"), "on the Hub"),
    (("ops", "./nowhere", "--offload-folder", "x"), "--offload-folder is where a device map keeps"),
    ((*RUN, "--offload-folder", "x", "--device-map", "cpu-offload"), "--offload-folder is where"),
    ((*QUANTIZE, "--stream", "--dtype", "auto"), "files hold them: leave out --dtype"),
    ((*QUANTIZE, "--stream", "--device-map", "auto"), "files hold them: leave out --device-map"),
    ((*SENSITIVITY, "--images", "."), "--images is the folder of pictures that --data coco:"),
    ((*SENSITIVITY, "--images", ".", "--data", "text:a.txt"), "--images is the folder"),
    ((*RUN, "--images", ".", "--data", "images:x", "--data", "a/b"), "--images is the folder"),
    (
        (*SENSITIVITY, "--lens", "heuristic:size", "--rescore", "0"),
        "--rescore is of the native lens",
    ),
    ((*SENSITIVITY, "--lens", "inc:tune", "--memory-limit", "1GB"), "--memory-limit is of the nat"),
    ((*SENSITIVITY, "--lens", "inc:tune", "--probes", "8"), "--probes is of the native lens"),
    ((*SENSITIVITY, "--lens", "inc:tune", "--cut", "a=1"), "--cut is of the native lens"),
    ((*SENSITIVITY, "--lens", "heuristic:size", "--max-ops", "2"), "--max-ops bounds what is meas"),
    ((*SENSITIVITY, "--lens", "import:f.json", "--time-budget", "5m"), "--time-budget bounds what"),
    (
        (*SENSITIVITY, "--lens", "inc:tune", "--lens", "import:f", "--confidence-batches", "1"),
        "--confidence-batches bounds what is measured",
    ),
    ((*SENSITIVITY, "--probes", "8"), "--probes is of metric hawq_v2"),
    ((*RUN, "--metric", "sqnr", "--probes", "4"), "--probes is of metric hawq_v2"),
    ((*SENSITIVITY, "--metric", "sqnr", "--slots", "2"), "--slots is of metrics that replay ops"),
    ((*RUN, "--metric", "visibility", "--rescore", "2"), "--rescore is of metrics that replay"),
    ((*SENSITIVITY, "--cut", "a=50%"), "--cut tells a bounded scan where to measure first"),
    ((*RUN, "--trials", "24"), "--trials is for --max-quality"),
    ((*RUN, "--confident"), "--confident is for --max-quality"),
    ((*SPECTRUM, "--trials", "9"), "--trials is for --max-quality"),
    ((*SPECTRUM, "--quality-name", "quality"), "--quality-name is for --max-quality"),
    ((*SPECTRUM, "--model", "x"), "--model is for --max-quality, without which nothing is loaded"),
    ((*SPECTRUM, "--device", "auto"), "--device is for --max-quality"),
    ((*SPECTRUM, "--dtype", "auto"), "--dtype is for --max-quality"),
    ((*SPECTRUM, "--trust-remote-code"), "--trust-remote-code is for --max-quality"),
    ((*SPECTRUM, "--gguf-file", "x"), "--gguf-file is for --max-quality"),
    ((*SPECTRUM, "--data", "demo"), "--data is for --max-quality"),
    ((*SPECTRUM, "--calibration", "32"), "--calibration is for --max-quality"),
    ((*SPECTRUM, "--samples", "32"), "--samples is for --max-quality"),
    ((*SPECTRUM, "--eval-samples", "64"), "--eval-samples is for --max-quality"),
    ((*SPECTRUM, "--batch-size", "8"), "--batch-size is for --max-quality"),
    ((*SPECTRUM, "--max-length", "9"), "--max-length is for --max-quality"),
    ((*SPECTRUM, "--max-new-tokens", "9"), "--max-new-tokens is for --max-quality"),
    ((*SPECTRUM, "--seed", "0"), "--seed is for --max-quality"),
    ((*SPECTRUM, *QUALITY, "--max-new-tokens", "48"), "a budget of accuracy alone looks at"),
    ((*SPECTRUM, "--latency", "l.json"), "give --budget NAME=latency:100% too, or leave"),
    ((*RUN, "--latency", "l.json", "--budget", "a=bytes:60%"), "--latency holds the times"),
    ((*EXPORT, "inc", "--onnx", "m.onnx"), "--onnx names the nodes of a graph"),
    ((*QUANTIZE, "--smoothing", "0.5"), "--smoothing is how much SmoothQuant moves"),
    ((*QUANTIZE, "--backend", "inc", "--algorithm", "rtn"), "--algorithm is of backend compressed"),
    ((*EVALUATE, "--baseline", "b.json", "--noise-floor", "batch"), "--noise-floor is measured of"),
    ((*EVALUATE, "--benchmark-limit", "3"), "--benchmark-limit is of benchmarks"),
    ((*EVALUATE, "--benchmark-tasks", "x"), "--benchmark-tasks is of benchmarks"),
]

TOLD = [
    ((*EXPORT, "torchao", "--report", "r.json"), "--report changed nothing"),
    ((*QUANTIZE, "--algorithm", "gptq", "--batch-size", "8"), "--batch-size changed nothing"),
    ((*QUANTIZE, "--data", "demo"), "--data changed nothing"),
    ((*QUANTIZE, "--calibration", "32"), "--calibration changed nothing"),
    ((*QUANTIZE, "--samples", "32"), "--samples changed nothing"),
    ((*QUANTIZE, "--eval-samples", "64"), "--eval-samples changed nothing"),
    ((*QUANTIZE, "--max-length", "64"), "--max-length changed nothing"),
    ((*QUANTIZE, "--seed", "0"), "--seed changed nothing"),
    ((*QUANTIZE, "--backend", "inc", "--data", "demo"), "--data changed nothing"),
    (("spectrum", "none.json", "other.json", "--out", "a.json"), "reports after the first"),
    (
        ("check", ".", "--for", "transformers", "--capability", "9.0"),
        "--capability changed nothing",
    ),
    (("check", ".", "--for", "transformers", "--dtype", "float32"), "--dtype changed nothing"),
    (
        ("check", ".", "--for", "vllm", "--capability", "9.0", "--dtype", "float16"),
        "--dtype changed nothing",
    ),
]

HEEDED = [
    (*RUN, "--max-quality", "kl 1", "--trials", "3", "--confident"),
    (*RUN, "--revision", "main"),
    (*RUN, "--latency", "l.json", "--budget", "a = latency:60%".replace(" ", "")),
    (*SPECTRUM, *QUALITY, "--samples", "3", "--device", "cpu", "--quality-name", "q"),
    (*SPECTRUM, "--max-quality", "accuracy -1pt", "--model", "x", "--max-new-tokens", "4"),
    (*SENSITIVITY, "--metric", "kl", "--metric", "hawq_v2", "--probes", "2", "--slots", "2"),
    (*SENSITIVITY, "--max-ops", "3", "--cut", "a=50%", "--images", ".", "--data", "coco:a.json"),
    (*QUANTIZE, "--algorithm", "gptq", "--data", "demo", "--seed", "3"),
    (*QUANTIZE, "--transform", "smoothquant", "--smoothing", "0.5", "--samples", "3"),
    (*QUANTIZE, "--backend", "inc", "--backend-option", "iters=2", "--data", "demo"),
    (*QUANTIZE, "--backend", "modelopt", "--max-length", "64"),
    (*QUANTIZE, "--stream", "--device", "cpu"),
    (*EVALUATE, "--noise-floor", "batch"),
    (*EVALUATE, "--baseline", "b.json", "--noise-floor", "none"),
    ("check", ".", "--for", "vllm", "--capability", "cpu", "--dtype", "float32"),
]

NUMBERS = [
    (SENSITIVITY, "--seed", ("-1", "nan", "1.5", "99999999999999999999")),
    (("agree", "a.json", "b.json"), "--seed", ("-1", "nan", str(2**32))),
    (QUANTIZE, "--smoothing", ("nan", "-0.1", "1.1", "inf")),
    *(
        (SENSITIVITY, option, ("0", "-3", "nan", "1e3", "inf", "1000000001"))
        for option in (
            *("--calibration", "--samples", "--eval-samples", "--batch-size", "--max-length"),
            *("--max-ops", "--confidence-batches", "--slots", "--probes"),
        )
    ),
    (SENSITIVITY, "--rescore", ("-1", "nan", "0.5")),
    (RUN, "--trials", ("0", "-1", "nan")),
    *((EVALUATE, option, ("0", "-1", "nan")) for option in (
        *("--max-new-tokens", "--latency-batch-size", "--latency-prompt-tokens"),
        "--benchmark-limit",
    )),
    (("guard", "m", "--spectrum", "s", "--out", "a.json"), "--rivals", ("0", "-1", "nan", "1001")),
    (("latency", "m", "--out", "a.json"), "--repeats", ("0", "-1", "nan")),
]  # fmt: skip


def parsed(command: tuple[str, ...]) -> argparse.Namespace:
    return build_parser().parse_args(list(command))


def told(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """What a refused command says, in one line."""
    assert main(list(command)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("quantspectrum: ")
    return line


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("command", "sentence"), REFUSED, ids=lambda x: " ".join(x[-2:]))
def test_an_option_without_effect_is_refused(
    command: tuple[str, ...], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in told(command, capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("command", "sentence"), TOLD)
def test_one_that_may_be_ignored_is_told(
    command: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(list(command))
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith(f"quantspectrum: note: {sentence}")


@pytest.mark.parametrize("command", HEEDED, ids=" ".join)
def test_one_with_effect_passes(command: tuple[str, ...]) -> None:
    assert list(unheeded(parsed(command))) == []


@pytest.mark.parametrize("option", ["--max-new-tokens", "--prompts", "--latency-batch-size"])
def test_a_masked_model_answers_nothing(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models_tiny.save(models_tiny.family("bert"), tmp_path / "bert")
    capsys.readouterr()
    command = ("evaluate", str(tmp_path / "bert"), "--out", "a.json", "--data", "text:a.txt")
    assert f"{option} is of models that write text" in told((*command, option, "3"), capsys)
    models_tiny.save(models_tiny.causal_lm("llama"), tmp_path / "llama")
    command = ("evaluate", str(tmp_path / "llama"), *command[2:])
    assert list(unheeded(parsed((*command, option, "3")))) == []


def test_every_rule_is_tried() -> None:
    commands = [command for command, _ in (*REFUSED, *TOLD)]
    tried = [rule for command in commands for rule, _ in unheeded(parsed(command))]
    untried = [rule.options for rule in RULES if rule not in tried]
    # It looks at the model, and has a test of its own.
    assert untried == [("prompts", "max_new_tokens", "latency_batch_size", "latency_prompt_tokens")]


def test_a_run_that_was_begun_goes_on_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "run.json").write_text("{}")
    main([*RUN, "--trials", "7"])
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("quantspectrum: note: --trials is for --max-quality")


def test_only_what_was_given_counts() -> None:
    args = parsed(RUN)
    assert not any(given(args, name) for name in vars(args) if name not in ("model", "out"))
    args = parsed((*RUN, "--trials", "24", "--confident", "--data", "demo"))
    found = {name for name in vars(args) if given(args, name)}
    assert found == {"model", "out", "trials", "confident", "data"}


@pytest.mark.parametrize(("command", "option", "values"), NUMBERS)
def test_a_number_that_is_none_is_wrong_usage(
    command: tuple[str, ...],
    option: str,
    values: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for value in values:
        with pytest.raises(SystemExit) as ended:
            main([*command, f"{option}={value}"])
        assert ended.value.code == 2
        assert f"argument {option}: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "command", [SENSITIVITY, QUANTIZE, ("guard", "m", "--spectrum", "s", "--out", "a.json")]
)
def test_commands_that_answer_nothing_have_no_option_for_it(command: tuple[str, ...]) -> None:
    for option in ("--prompts", "--max-new-tokens"):
        with pytest.raises(SystemExit) as ended:
            main([*command, option, "3"])
        assert ended.value.code == 2
