"""Load a checkpoint in vLLM and answer token prompts greedily. Runs in vLLM's environment only.

    python vllm_generate.py request.json result.json

The request holds `model` (a directory), `dtype`, `prompts` (lists of token ids) and `new_tokens`.
The result holds the tokens that were generated, the log probability of every prompt token given
those before it, and versions; or, where vLLM raised, the error. Nothing of quantspectrum is imported.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["VLLM_NO_USAGE_STATS"] = "1"
# One process: an error of the engine then arrives here as it was raised.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    result: dict[str, Any] = {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "compressed-tensors")},
        }
    }
    start, stage = time.perf_counter(), "load"
    try:
        from vllm import LLM, SamplingParams, __version__

        result["versions"]["vllm"] = __version__
        engine = LLM(
            model=request["model"],
            dtype=request["dtype"],
            max_model_len=request.get("max_model_len", 512),
            max_num_seqs=8,
            enforce_eager=True,
            seed=0,
        )
        result["load_s"] = round(time.perf_counter() - start, 1)
        start, stage = time.perf_counter(), "generate"
        sampling = SamplingParams(
            temperature=0.0, max_tokens=request["new_tokens"], ignore_eos=True, prompt_logprobs=0
        )
        prompts = [{"prompt_token_ids": ids} for ids in request["prompts"]]
        outputs = engine.generate(prompts, sampling, use_tqdm=False)
        result["generate_s"] = round(time.perf_counter() - start, 1)
        result["outputs"] = [list(output.outputs[0].token_ids) for output in outputs]
        result["prompt_logprobs"] = [
            [
                given[token].logprob
                for given, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)
            ]
            for output, ids in zip(outputs, request["prompts"], strict=True)
        ]
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the result
        result["error"] = {
            "stage": stage,
            "type": type(error).__name__,
            "text": str(error).strip(),
            "where": [
                f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(error.__traceback__)[-4:]
            ],
        }
        if error.__cause__ is not None:
            result["error"]["cause"] = repr(error.__cause__)
    Path(sys.argv[2]).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
