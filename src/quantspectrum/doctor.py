"""Which lenses, backends and devices work here, and how to get the rest."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

import torch

from quantspectrum.artifacts import Record
from quantspectrum.backends import BACKENDS
from quantspectrum.backends.frameworks import ISOLATED
from quantspectrum.backends.isolated import IsolatedBackend
from quantspectrum.isolation import ENVIRONMENTS, EnvironmentSpec, find_environment
from quantspectrum.lenses import LENSES, lens_named
from quantspectrum.sensitivity import METRICS

__all__ = ["Finding", "examine"]


class Finding(Record):
    """One thing that was looked for."""

    kind: Literal["device", "lens", "backend", "environment", "data", "model"]
    name: str
    works: bool
    detail: str


def examine() -> list[Finding]:
    """Look for devices, lenses, backends and optional packages."""
    findings = [Finding(kind="device", name="cpu", works=True, detail="float32 by default")]
    if not torch.cuda.is_available():
        detail = "no CUDA device; install a CUDA build of torch on a machine that has one"
        findings.append(Finding(kind="device", name="cuda", works=False, detail=detail))
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        detail = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        findings.append(Finding(kind="device", name=f"cuda:{index}", works=True, detail=detail))
    detail = f"built in; METRIC is one of {', '.join(METRICS)}"
    findings.append(Finding(kind="lens", name="native:METRIC", works=True, detail=detail))
    findings += [_lens(name) for name in LENSES]
    findings.append(Finding(kind="lens", name="import:FILE", works=True, detail="built in"))
    findings += [Finding(kind="backend", name=n, works=True, detail="built in") for n in BACKENDS]
    findings += [_backend(backend) for backend in ISOLATED.values()]
    findings += [_environment(spec) for spec in ENVIRONMENTS.values()]
    findings.append(_package("data", "hub:ID", "datasets", "datasets"))
    findings.append(_package("model", "--gguf-file", "gguf", "gguf"))
    findings.append(_package("model", "device placement", "accelerate", "accelerate"))
    return findings


def _package(kind: Literal["data", "model"], name: str, package: str, extra: str) -> Finding:
    works = find_spec(package) is not None
    advice = f"pip install 'quantspectrum[{extra}]'"
    return Finding(kind=kind, name=name, works=works, detail=package if works else advice)


def _lens(name: str) -> Finding:
    environment = lens_named(name).ENVIRONMENT
    if environment is None:
        return Finding(kind="lens", name=name, works=True, detail="built in")
    return _isolated("lens", name, environment)


def _backend(backend: IsolatedBackend) -> Finding:
    if backend.ENVIRONMENT is not None:
        return _isolated("backend", backend.NAME, backend.ENVIRONMENT)
    works, detail = find_spec("onnxruntime") is not None, "ONNX Runtime"
    detail = detail if works else "pip install 'quantspectrum[onnx]'"
    return Finding(kind="backend", name=backend.NAME, works=works, detail=detail)


def _isolated(kind: Literal["lens", "backend"], name: str, environment: str) -> Finding:
    works = find_environment(environment) is not None
    return Finding(kind=kind, name=name, works=works, detail=f"environment {environment}")


def _environment(spec: EnvironmentSpec) -> Finding:
    found = find_environment(spec.name)
    detail = spec.serves
    if found is None:
        detail = f"{detail}; quantspectrum doctor --install {spec.name}"
    return Finding(kind="environment", name=spec.name, works=found is not None, detail=detail)
