"""Does ModelOpt's solver for `gradient` find its own optimum? The same scores, as they are and times a million.

    env_modelopt/bin/python bench/modelopt_solver.py --results bench/results --out bench/results/modelopt_solver.json

Runs in ModelOpt's environment. Groups, scores and weights are those that results of bench/pareto.py hold. A
factor on all scores changes no optimum.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from modelopt.torch.quantization.algorithms import AutoQuantizeGradientSearcher

RESULTS = ("pareto_smollm2", "pareto_demo", "pareto_demo_loss", "pareto_stories260k")
FACTOR = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found = {}
    for name in (name for name in RESULTS if (args.results / f"{name}.json").exists()):
        made = json.loads((args.results / f"{name}.json").read_text())["modelopt"]["gradient"]
        bits = [solution["effective_bits"] for solution in made["solutions"]]
        found[name] = [
            {
                "effective_bits": each,
                "as_they_are": solved(made["groups"], each, 1.0),
                "times_a_million": solved(made["groups"], each, FACTOR),
            }
            for each in bits
        ]
    packages = {name: version(name) for name in ("nvidia-modelopt", "pulp")}
    result = {"bench": "modelopt_solver", "versions": packages, "models": found}
    args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


def solved(groups: list[dict[str, Any]], bits: float, factor: float) -> dict[str, Any]:
    """What ModelOpt's search finds: the sum of its scores, and the effective bits it reaches."""
    searcher = AutoQuantizeGradientSearcher()
    searcher.candidate_stats = {
        group["ops"][0]: {
            "formats": ["int8", "none"],
            "scores": [group["score"] * factor, 0.0],
            "costs": [group["weights"] / 2, float(group["weights"])],
        }
        for group in groups
    }
    searcher.config = dict(searcher.default_search_config)
    whole = sum(group["weights"] for group in groups)
    best, _ = searcher.run_search_with_stats(whole * bits / 16)
    return {
        "score": sum(found["scores"] for found in best.values()) / factor,
        "effective_bits": sum(found["costs"] for found in best.values()) / whole * 16,
        "status": searcher.status,
    }


if __name__ == "__main__":
    main()
