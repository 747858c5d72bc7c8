"""Fixtures of the demo's tests; the training tool's modules are made importable."""

from __future__ import annotations

import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"
for folder in (TOOLS, Path(__file__).parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
