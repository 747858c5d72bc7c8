"""What `doctor` lists: every lens there is, and whether what it needs is there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from quantspectrum.doctor import Finding, examine
from quantspectrum.lenses import LENSES
from quantspectrum.sensitivity import METRICS


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Finding]:
    """Lenses on a machine with one environment, INC's."""
    monkeypatch.setenv("QUANTSPECTRUM_HOME", str(tmp_path))
    monkeypatch.setenv("QUANTSPECTRUM_ENV_INC", sys.executable)
    for name in ("INC_AUTOROUND", "MODELOPT"):
        monkeypatch.delenv(f"QUANTSPECTRUM_ENV_{name}", raising=False)
    return {finding.name: finding for finding in examine() if finding.kind == "lens"}


def test_every_lens_is_listed(found: dict[str, Finding]) -> None:
    assert set(found) == {"native:METRIC", *LENSES, "import:FILE"}
    _, _, metrics = found["native:METRIC"].detail.partition("one of ")
    assert metrics.split(", ") == list(METRICS)


def test_a_lens_works_where_its_environment_is(found: dict[str, Finding]) -> None:
    for name, finding in found.items():
        framework = name.partition(":")[0]
        assert finding.works == (framework not in ("modelopt", "autoround")), name
    assert found["modelopt:gradient"].detail == "environment modelopt"
    assert found["inc:tune"].detail == "environment inc"
