"""What all tests share: how hypothesis runs, tiny models, and real assets where there are any."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker a core: more threads of each would wait for one another, and torch reads this once.
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")

from hypothesis import settings
from torch import nn

import models_tiny

# The same examples every time, on slow machines too, and no folder left behind.
settings.register_profile("tests", deadline=None, derandomize=True, database=None)
settings.load_profile("tests")

STORIES = Path(__file__).parents[2] / "shared/assets/models/stories260k"


@pytest.fixture(scope="session")
def stories_dir() -> Path:
    """A real trained Llama of 260k parameters, kept beside the project."""
    if not STORIES.is_dir():
        pytest.skip("needs the real model in ../shared/assets/models/stories260k, which is absent")
    return STORIES


@pytest.fixture
def llama() -> nn.Module:
    return models_tiny.causal_lm("llama")


@pytest.fixture
def vl() -> nn.Module:
    return models_tiny.qwen2_5_vl()


@pytest.fixture
def file_size_limit() -> Callable[[int], AbstractContextManager[None]]:
    """Make every write beyond so many bytes of a file fail, whoever does it, as on a full disk."""
    resource = pytest.importorskip("resource", reason="file sizes can be limited on POSIX alone")

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)

    return limited
