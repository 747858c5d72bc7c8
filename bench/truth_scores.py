"""Scores of a work folder held against damages that an earlier result of bench/truth.py measured.

    python bench/truth_scores.py --work DIR --truth bench/results/truth_smollm2.json --format w8a8-static --out JSON

For lenses that run where the measuring did not: nothing is measured here. Reports must be of the same weights
and of the selection split that belongs to the result's held-out samples, which the folder's scoring was asked for.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from truth import lens_row, note_of

from quantspectrum.agreement.agree import group_scores, labels_of, members_of
from quantspectrum.agreement.rank_statistics import kendall_interval, spearman_interval
from quantspectrum.artifacts import SensitivityReport, read_artifact

SPLIT = ("calibration", "samples", "eval_samples", "seed", "max_length")
"""What decides which samples are drawn, and how they are cut."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--asked", type=Path, required=True, help="the scoring's data request, JSON"
    )
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--format", required=True)
    parser.add_argument(
        "--absent", action="append", default=[], help="LENS=REASON of a lens that was not scored"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    earlier = json.loads(args.truth.read_text())
    asked = json.loads(args.asked.read_text())
    if any(asked["data"][key] != earlier["data"][key] for key in SPLIT):
        raise SystemExit("the scores are of another draw of samples than the damages")
    paths = sorted(path.with_suffix(".json") for path in args.work.glob("*/*.note"))
    reports = [read_artifact(path, SensitivityReport) for path in paths]
    of = earlier["model"]["weights_fingerprint"]
    if any(report.provenance.model.weights_fingerprint != of for report in reports):
        raise SystemExit("a report is of other weights than the damages")
    groups = earlier["formats"][args.format]["truth"]["groups"]
    damages = {group["group"]: group["kl"]["value"] for group in groups}
    members = members_of(reports)
    rows = []
    for label, path, report in zip(labels_of(reports), paths, reports, strict=True):
        # The file is named after what was asked: LENS,OPTION=VALUE.
        options = dict(part.split("=", 1) for part in path.stem.split(",")[1:])
        said = {"options": options, **json.loads(note_of(path).read_text())}
        rows.append(lens_row(path, said) | held(label, group_scores(report, members), damages))
    result = {
        "bench": "truth_scores",
        "damages_of": args.truth.name,
        "format": args.format,
        "groups": len(damages),
        "environment": asked["environment"],
        "machine": asked["machine"],
        "model": asked["model"],
        "data": asked["data"],
        "lenses": rows,
        "absent": asked["absent"]
        + [
            {"lens": lens, "reason": reason}
            for lens, _, reason in (text.partition("=") for text in args.absent)
        ],
    }
    args.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


def held(label: str, scores: dict[str, float], damages: dict[str, float]) -> dict[str, Any]:
    """Rank correlations of a lens's group scores with the damages."""
    names = sorted(scores)
    pair = [scores[name] for name in names], [damages[name] for name in names]
    return {
        "label": label,
        "groups": len(names),
        "spearman": spearman_interval(*pair, seed=0).model_dump(mode="json"),
        "kendall": kendall_interval(*pair, seed=0).model_dump(mode="json"),
    }


if __name__ == "__main__":
    main()
