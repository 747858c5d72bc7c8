"""The table of docs/serving.md, from the result of bench/serve_vllm.py: none of its figures is typed.

python bench/serve_table.py --result bench/results/serve_vllm.json --page docs/serving.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- bench/serve_table.py -->\n", "<!-- end -->\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--result", type=Path, default=Path("bench/results/serve_vllm.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/serving.md"))
    args = parser.parse_args()
    args.page.write_text(filled(args.page.read_text(), json.loads(args.result.read_text())))


def filled(page: str, result: dict[str, Any]) -> str:
    """The page with the table of this result in its place."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + table(result) + END + after


def table(result: dict[str, Any]) -> str:
    """One row a case: what was predicted, what happened, how far the engines are apart."""
    lines = [
        "| checkpoint | type | predicted | vLLM | same tokens | apart | from itself | quantization moved |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [row(name, case) for name, case in result["cases"].items()]
    held = sum(case["prediction_holds"] for case in result["cases"].values())
    return "\n".join(lines) + f"\n\n{held} of {len(result['cases'])} predictions held.\n"


def row(name: str, case: dict[str, Any]) -> str:
    name = f"`{name}`" + (f" ({case['spoiled']})" if case["spoiled"] else "")
    start = f"| {name} | {case['dtype']} | {case['predicted']} | "
    if case["outcome"] == "error":
        error = case["vllm"]["error"]
        lines = [line.strip() for line in error["text"].splitlines() if line.strip()]
        # Of several the last is the reason that the kernel meant for this format gives.
        text = " … ".join(dict.fromkeys((lines[0], lines[-1]))).replace("|", "\\|")
        return start + f"error in {error['stage']}: {text} | | | | |"
    if "agreement" not in case:
        return start + f"loads, {case['outcome']}: {case['why']} | | | | |"
    found = case["agreement"]
    return (
        start + f"loads, {case['outcome']} | {found['same_tokens']} of {found['tokens']} | "
        f"{found['apart_with_vllm_steps']:.4f} | {case['own_noise']:.4f} | {case['moved_by_quantization']:.4f} |"
    )


if __name__ == "__main__":
    main()
