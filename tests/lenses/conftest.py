"""Fixtures of the tests of lenses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quantspectrum.lenses import isolated


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Has a worker answer what it is told to; gives what it was asked."""
    asked: dict[str, Any] = {}

    def answer(result: dict[str, Any]) -> dict[str, Any]:
        def worker(environment: str, name: str, request: Any, *_: Any, **more: Any) -> Any:
            asked.update(request, environment=environment, worker=name, **more)
            return result

        monkeypatch.setattr(isolated, "run_worker", worker)
        return asked

    return answer
