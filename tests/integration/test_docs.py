"""The commands that README.md and docs/ show do what is said there.

They run in the order shown, in an empty folder, with the options shown and smaller counts of
samples; a model is replaced by one that needs no download, a data file by one made here. A
command, a model or a file that is not known here fails.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

import models_tiny
from integration.docs_commands import DOCUMENTS, ROOT, fences, shown_commands
from quantspectrum.artifacts import (
    Agreement,
    Evaluation,
    Guard,
    LatencyTable,
    Manifest,
    QualitySearch,
    SensitivityReport,
    Spectrum,
    read_artifact,
)
from quantspectrum.cli import build_parser, main
from quantspectrum.data.pictures import disc
from quantspectrum.demo import model_dir
from quantspectrum.isolation import find_environment
from quantspectrum.serving import CheckReport
from quantspectrum.stages import lens_paths

PROFILES = ("mild", "medium", "aggressive", "max")

_DEVICE = ("--device", "cpu", "--quiet")
_DRAWN = ("--calibration", "2", "--samples", "2", "--eval-samples", "2", "--max-length", "128")
_DATA = (*_DRAWN, "--batch-size", "2")
_ANSWERS = ("--max-new-tokens", "4")

ADDED: dict[str, tuple[str, ...]] = {
    "run": (*_DEVICE, *_DATA),
    "ops": _DEVICE,
    "sensitivity": (*_DEVICE, *_DATA),
    "spectrum": ("--quiet",),
    "guard": (*_DEVICE, *_DATA),
    "latency": (*_DEVICE, "--repeats", "2"),
    "agree": ("--quiet",),
    "quantize": _DEVICE,
    "check": (),
    "evaluate": (*_DEVICE, *_DATA),
}
"""Every command that is run, and what is added so that it takes seconds."""

ADDED_WITH: dict[tuple[str, str], tuple[str, ...]] = {
    ("spectrum", "--max-quality"): ("--device", "cpu", *_DATA),
    ("quantize", "--data"): _DRAWN,
}
"""What is added besides, to a command with an option without which it would do nothing."""

MODELS = (
    "MODEL",
    "Qwen/Qwen2.5-VL-3B-Instruct",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "google/vit-base-patch16-224",
    "hustvl/yolos-tiny",
)
"""Models that stand for others; any other must be a directory by the time it is used."""


def commands_of(program: str) -> list[tuple[str, list[str]]]:
    return [
        (document, command)
        for document in DOCUMENTS
        for command in shown_commands(document)
        if command[0] == program
    ]


def write_data(folder: Path) -> None:
    """The files that the documents give to ``--data`` and ``--images``."""
    (folder / "val2017").mkdir()
    images, annotations = [], []
    for i in range(8):
        name = f"{i:012d}.jpg"
        disc(56, (25 * i, 90, 200 - 25 * i)).save(folder / "val2017" / name)
        images.append({"id": i, "file_name": name})
        caption = f"A disc of colour number {i} on a white ground."
        annotations.append({"id": 100 + i, "image_id": i, "caption": caption})
    named = [{"image": f"val2017/{i:012d}.jpg", "answer": f"{i % 5}"} for i in range(8)]
    (folder / "named.jsonl").write_text("\n".join(map(json.dumps, named)))
    made = {"images": images, "annotations": annotations}
    (folder / "captions_val2017.json").write_text(json.dumps(made))
    for name in ("notes.txt", "wiki.test.raw"):
        lines = [f"{name}, passage {i}: " + "a plain sentence. " * 60 for i in range(8)]
        (folder / name).write_text("\n\n".join(lines))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    write_data(work)
    monkeypatch.chdir(work)
    return work


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For every model of the documents, one of its kind that is there."""
    made = tmp_path_factory.mktemp("models")
    vision = models_tiny.save(models_tiny.qwen2_5_vl(), made / "vision")
    text = models_tiny.save(models_tiny.causal_lm(), made / "text")
    vit = models_tiny.save(models_tiny.family("vit"), made / "vit")
    detector = models_tiny.save(models_tiny.detector(), made / "detector")
    return dict(zip(MODELS, (model_dir(), vision, text, vit, detector), strict=True))


def runnable(command: list[str], stand_ins: dict[str, Path]) -> list[str]:
    """What is given to the command line in place of what is shown."""
    name, *rest = command[1:]
    assert name in ADDED, f"tests/integration/test_docs.py does not know {shlex.join(command)}"
    more = [added for (of, option), added in ADDED_WITH.items() if of == name and option in rest]
    if name in ("run", "evaluate") and not any("vit" in word or "yolos" in word for word in rest):
        more.append(_ANSWERS)  # Those of these two names write no text.
    given = (str(stand_ins.get(word, word)) for word in rest)
    return [name, *given, *ADDED[name], *(word for added in more for word in added)]


ENVIRONMENTS = {"inc": "inc", "modelopt": "modelopt", "autoround": "inc-autoround"}
"""Where the lenses of a framework run."""


def lacks(arguments: list[str]) -> list[str]:
    """Environments that a command needs and that are not here."""
    asked = build_parser().parse_args(arguments)
    kinds = {lens.partition(":")[0] for lens in getattr(asked, "lens", None) or ()}
    needed = {ENVIRONMENTS[kind] for kind in kinds if kind in ENVIRONMENTS}
    return sorted(name for name in needed if find_environment(name) is None)


def check_written(arguments: list[str]) -> None:
    """Everything the documents promise of a command's ``--out`` is there and can be read."""
    asked = build_parser().parse_args(arguments)
    command = arguments[0]
    if command == "ops" or (command == "check" and asked.out is None):
        return
    out = Path(asked.out)
    if command == "sensitivity" and asked.lens:
        for lens, path in lens_paths(out, asked.lens).items():
            report = read_artifact(path, SensitivityReport)
            assert report.complete
            assert report.lens == lens
            assert path.with_suffix(".md").is_file()
    elif command == "agree":
        assert read_artifact(out, Agreement).pairs
    elif command == "sensitivity":
        for path in report_paths(asked.metric, asked.format, out):
            report = read_artifact(path, SensitivityReport)
            assert report.complete
            assert report.base == (asked.base or ["isolate"])[0]
            assert path.with_suffix(".md").is_file()
    elif command == "spectrum":
        names = [profile.name for profile in read_artifact(out, Spectrum).profiles]
        asked_for = [rule.split("=")[0] for rule in (*(asked.cut or ()), *(asked.budget or ()))]
        wanted = asked_for or list(PROFILES)
        if asked.max_quality is not None:
            assert names.count("quality") == 1
            assert read_artifact(out.with_suffix(".quality.json"), QualitySearch).trials
            names.remove("quality")
        found = names[-len(wanted) :]
        assert sorted(found) == sorted(wanted) if asked.budget else found == wanted
    elif command == "latency":
        assert read_artifact(out, LatencyTable).entries
    elif command == "guard":
        assert read_artifact(out, Guard).held_out
    elif command == "quantize":
        manifest = read_artifact(out / "manifest.json", Manifest)
        assert manifest.profile.name == asked.profile
        if asked.backend == "onnx":
            assert (out / "model.onnx").is_file()
            return
        assert {note.engine: note.serves for note in manifest.serving}["vllm"]
        assert (out / "model.safetensors").is_file()
    elif command == "check":
        assert read_artifact(out, CheckReport).serves
    elif command == "evaluate":
        assert read_artifact(out, Evaluation).label == asked.label
    else:
        check_run(out)


def report_paths(metrics: list[str] | None, formats: list[str] | None, out: Path) -> list[Path]:
    """The names that the documents say reports have: metric and format where there is a choice."""
    names = [out.stem]
    for choices in (metrics, formats):
        if choices is not None and len(choices) > 1:
            names = [f"{name}.{choice}" for name in names for choice in choices]
    return [out.with_name(f"{name}.json") for name in names]


def check_run(out: Path) -> None:
    expected = ["run.json", "report.html", "report.md", "spectrum.json", "baseline/evaluation.json"]
    expected += [f"variants/{name}/manifest.json" for name in PROFILES]
    expected += [f"evaluations/{name}.json" for name in PROFILES]
    assert [name for name in expected if not (out / name).is_file()] == []
    reports = sorted((out / "sensitivity").iterdir())
    assert {path.suffix for path in reports} == {".json", ".md"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_only_known_commands_are_shown(document: str) -> None:
    commands = shown_commands(document)
    assert commands
    assert {language for language, _ in fences(document)} == {"console"}
    for command in commands:
        assert command[0] in ("quantspectrum", "make", "pip"), shlex.join(command)
        if command[0] == "quantspectrum":
            build_parser().parse_args(runnable(command, {}))


def test_a_command_that_is_not_known_fails() -> None:
    with pytest.raises(AssertionError, match="does not know quantspectrum doctor --json"):
        runnable(["quantspectrum", "doctor", "--json"], {})


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_run_in_order(
    document: str, folder: Path, stand_ins: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    absent: list[str] = []
    for command in shown_commands(document):
        if command[0] != "quantspectrum":
            continue
        arguments = runnable(command, stand_ins)
        # What an absent framework would have written is not there for the commands after it either.
        absent += lacks(arguments)
        if "onnx" in arguments:
            pytest.importorskip("onnxscript", reason="needs the extra onnx")
        if lacks(arguments) or (absent and command[1] == "agree"):
            continue
        model = getattr(build_parser().parse_args(arguments), "model", None)
        assert model is None or Path(model).is_dir(), f"no stand-in for the model {model}"
        code = main(arguments)
        captured = capsys.readouterr()
        assert code == 0, f"{shlex.join(command)}: {captured.err}"
        assert captured.out.strip(), f"{shlex.join(command)} says nothing"
        check_written(arguments)
    if absent:
        pytest.skip(f"the environments {', '.join(sorted(set(absent)))} are absent; the rest ran")
    check_names(document)


def check_names(document: str) -> None:
    """Every file whose name the text gives, and that an ``--out`` of the document is the stem of."""
    outs = [
        Path(command[command.index("--out") + 1])
        for command in shown_commands(document)
        if "--out" in command
    ]
    text = (ROOT / document).read_text(encoding="utf-8")
    for out in outs:
        for name in re.findall(rf"`({re.escape(out.stem)}\.[\w.-]+\w)`", text):
            assert out.with_name(name).is_file(), f"{document} says there is a {name}"


@pytest.mark.parametrize("name", ["smollm2", "stories260k"])
def test_the_tables_of_the_readme_hold_what_the_bench_measured(name: str) -> None:
    result = json.loads((ROOT / f"bench/results/{name}_static.json").read_text(encoding="utf-8"))
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert [row["profile"] for row in result["comparison"]] == list(PROFILES)
    for row in result["comparison"]:
        start = f"| {row['profile']} | {row['disk_bytes'] / 1e6:.3g} MB | "
        (line,) = [line for line in lines if line.startswith(start)]
        assert line.endswith(f" | {100 * row['divergence']['same_top']:.1f} % |")
        for shown, measured in zip(line.split(" | ")[2:4], ("paired", "divergence"), strict=True):
            value, low, high = numbers_in(shown)
            found = row[measured]
            # As far as its digits go: half of the last one that is shown.
            for said, true in ((value, "value"), (low, "low"), (high, "high")):
                assert abs(float(said) - found[true]) <= 0.501 * last_digit(said), (line, true)


def numbers_in(cell: str) -> list[str]:
    """``+0.015 (+0.010 to +0.020)`` as three numbers."""
    return re.findall(r"[-+]?\d+\.\d+", cell.replace("−", "-"))


def last_digit(number: str) -> float:
    return float(10 ** -len(number.partition(".")[2]))


@pytest.mark.parametrize(("document", "command"), commands_of("make"))
def test_make_has_the_target(document: str, command: list[str]) -> None:
    make = shutil.which("make")
    assert make is not None, "make is needed to set the project up"
    # With names of its own for everything a target makes, so that nothing counts as made.
    done = subprocess.run(
        [make, "-n", *command[1:], "VENV=nowhere"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        program, *rest = shlex.split(line) or [""]
        if Path(program).name == "quantspectrum":
            build_parser().parse_args(rest)


@pytest.mark.parametrize(("document", "command"), commands_of("pip"))
def test_pip_finds_what_it_is_told_to_install(document: str, command: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, *rest = command[1:]
    assert name == "install"
    while rest:
        word = rest.pop(0)
        if word == "-c":
            assert (ROOT / rest.pop(0)).is_file()
            continue
        package, _, extras = word.removesuffix("]").partition("[")
        assert package in (".", project["name"]), word
        known = project["optional-dependencies"]
        assert [e for e in extras.split(",") if extras and e not in known] == []
