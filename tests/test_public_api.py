"""Every module imports and keeps its promises of ``__all__``; the light ones stay light."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import quantspectrum

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(quantspectrum.__path__, "quantspectrum.")
    # Importing __main__ would run the command line.
    if not module.name.endswith(".__main__")
)

LIGHT = (
    "quantspectrum",
    "quantspectrum.artifacts",
    "quantspectrum.errors",
    "quantspectrum.formats",
    "quantspectrum.patterns",
    "quantspectrum.provenance",
)


def test_modules_are_found() -> None:
    assert {"quantspectrum.cli", "quantspectrum.sensitivity.engine"} <= set(MODULES)


@pytest.mark.parametrize("name", ["quantspectrum", *MODULES])
def test_all_names_what_is_there(name: str) -> None:
    module = importlib.import_module(name)
    public = [key for key in vars(module) if not key.startswith("_")]
    defined = [key for key in public if not isinstance(vars(module)[key], ModuleType)]
    # A package that holds a docstring and nothing else has nothing to export.
    exported = module.__all__ if set(defined) - {"annotations"} else []
    assert len(set(exported)) == len(exported)
    assert [entry for entry in exported if not hasattr(module, entry)] == []


@pytest.mark.parametrize("name", LIGHT)
def test_importing_it_does_not_import_torch(name: str) -> None:
    code = f"import sys, {name}; print({{'torch', 'transformers', 'numpy'}} & set(sys.modules) or 'light')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "light"


def test_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert quantspectrum.__version__ == version("quantspectrum")
