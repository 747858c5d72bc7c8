"""Make `tests/oracles/inc/*.json`: INC 3.7's own per-op numbers on two tiny models.

    python tools/inc_golden.py --inc-python env_inc/bin/python

INC lives in an environment of its own (`quantspectrum doctor --install inc`).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "bench")]

from peers import run_inc  # noqa: E402

from oracles.inc_models import CASES, fingerprint, make_batch, make_model  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inc-python", required=True)
    parser.add_argument("--case", choices=CASES, action="append")
    args = parser.parse_args()
    for case in args.case or CASES:
        model, batch = make_model(case), make_batch(case)
        found = run_inc(args.inc_python, model, [batch])
        golden = {
            "command": "python tools/inc_golden.py --inc-python env_inc/bin/python",
            "tool": "INC calculate_op_sensitivity",
            **{key: found["settings"][key] for key in ("observer", "engine", "reduce_range")},
            **{key: found[key] for key in ("versions", "order")},
            "fingerprint": fingerprint(model, batch.inputs),
            "residual_sse": found["batches"][0],
        }
        path = ROOT / f"tests/oracles/inc/{case}.json"
        path.write_text(json.dumps(golden, indent=1) + "\n")
        print(f"{path.relative_to(ROOT)}: {len(golden['residual_sse'])} ops")


if __name__ == "__main__":
    main()
