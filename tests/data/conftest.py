"""What the tests of the data room share: real assets where they are present, and tiny pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantspectrum.data.pictures import gradient

ASSETS = Path(__file__).parents[2].parent / "shared/assets"


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder of real data and of a real processor, kept beside the project."""
    if not ASSETS.is_dir():
        pytest.skip("needs the real data in ../shared/assets, which is absent")
    return ASSETS


@pytest.fixture(scope="session")
def qwen(assets: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(assets / "models/qwen2.5-vl-processor")


@pytest.fixture(scope="session")
def stories(assets: Path) -> Any:
    """A Llama tokenizer: BOS by default, neither a chat template nor a padding token."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(assets / "models/stories260k")


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """Write a small picture under the test's folder and return its path."""

    def write(name: str, width: int = 30, height: int = 20) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        gradient(width, height).save(path)
        return path

    return write
