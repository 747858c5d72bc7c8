"""A decoder timed with torchao's int8 products under torch.compile; runs in torchao's environment.

Request: ``model`` (a directory of safetensors), ``class``, ``dtype``, ``device``, ``codes`` (names of
the ops whose weights are int8 codes there; the others are in high precision), ``points`` (pairs of
batch size and prompt tokens), ``new_tokens``, ``repeats``, ``trust_remote_code``. Result: ``latency``,
``kernels``, ``quantized`` (ops that hold an ``Int8Tensor``), ``logits_finite``, ``next`` (the
likeliest tokens after the last step of each point), ``versions``, ``usage``.

The variant's own codes and scales become torchao's ``Int8Tensor``; nothing is quantized again.
Inputs are quantized per token on the way in, as torchao does it. A cache of fixed size makes two
graphs a point: the prefill, and a step of one token a sequence.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from _exchange import progress, read_request, usage, versions, write_result

_PRODUCTS = ("mm", "gemm", "linear", "matmul", "attention")


def main() -> None:
    """Load, time and tell."""
    request = read_request()
    import torch

    start = time.perf_counter()
    model = loaded_model(request)
    load_s = time.perf_counter() - start
    device = torch.device(request["device"])
    latency, following, kernels, finite = [], [], {}, True
    points = [tuple(point) for point in request["points"]]
    with torch.inference_mode():
        for number, point in enumerate(points):
            run = Decoder(model, device, point, request["new_tokens"])
            latency.append(measured(run, request["repeats"]))
            following.append(run.logits[:, -1].argmax(-1).tolist())
            if not kernels:
                kernels = run.kernels()
            finite = finite and bool(run.logits.isfinite().all())
            progress(number + 1, len(points))
    cuda = device.type == "cuda"
    write_result(
        {
            "latency": latency,
            "kernels": kernels,
            "logits_finite": finite,
            "next": following,
            "quantized": sorted(quantized_ops(model)),
            "load_s": load_s,
            "device_name": torch.cuda.get_device_name(device) if cuda else "",
            "peak_device_bytes": torch.cuda.max_memory_allocated(device) if cuda else None,
            "versions": versions("torchao", "torch", "transformers"),
            "usage": usage(),
        }
    )


def loaded_model(request: dict[str, Any]) -> Any:
    """The model with torchao's tensors in place of the weights that are codes."""
    import torch
    import transformers
    from safetensors.torch import load_file

    directory, dtype = Path(request["model"]), getattr(torch, request["dtype"])
    codes: dict[str, Any] = {}
    state: dict[str, Any] = {}
    wanted = set(request["codes"])
    for file in sorted(directory.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            op, _, leaf = name.rpartition(".")
            if op in wanted and leaf in ("weight", "weight_scale"):
                codes[name] = tensor
            elif op not in wanted or leaf == "bias":
                state[name] = tensor
    for op in wanted:
        # What transformers is given in place of codes only has their shape.
        state[f"{op}.weight"] = torch.zeros((), dtype=dtype).expand(codes[f"{op}.weight"].shape)
    raw = json.loads((directory / "config.json").read_text("utf-8"))
    raw.pop("quantization_config", None)
    config = transformers.AutoConfig.for_model(**raw)
    cls = getattr(transformers, request["class"])
    model = cls.from_pretrained(None, config=config, state_dict=state, dtype=dtype)
    model = model.eval().requires_grad_(False)
    for op in wanted:
        module = model.get_submodule(op)
        tensor = int8_tensor(codes[f"{op}.weight"], codes[f"{op}.weight_scale"], dtype)
        module.weight = torch.nn.Parameter(tensor, requires_grad=False)
    return model.to(request["device"])


def int8_tensor(codes: Any, scale: Any, dtype: Any) -> Any:
    """Torchao's weight of the given codes, one scale a row, whose inputs are quantized per token."""
    from torchao.quantization.granularity import PerRow
    from torchao.quantization.quantize_.workflows.int8.int8_tensor import (
        Int8Tensor,
        QuantizeTensorToInt8Kwargs,
    )

    return Int8Tensor(
        codes,
        scale.reshape(-1, 1).float(),
        [1, codes.shape[1]],
        dtype,
        act_quant_kwargs=QuantizeTensorToInt8Kwargs(PerRow()),
    )


def quantized_ops(model: Any) -> list[str]:
    """Names of the modules that hold torchao's tensor."""
    return [
        name
        for name, module in model.named_modules()
        if type(getattr(module, "weight", None)).__name__ == "Int8Tensor"
    ]


class Decoder:
    """The text decoder of a model and its head, compiled, at one batch size and length."""

    def __init__(self, model: Any, device: Any, point: tuple[int, int], new_tokens: int) -> None:
        import torch
        from transformers import StaticCache

        self.batch, self.length = point
        self.new_tokens, self.device = new_tokens, device
        decoder, head = model.get_decoder(), model.get_output_embeddings()
        config = model.config.get_text_config()
        self.cache = StaticCache(config=config, max_cache_len=self.length + new_tokens + 1)
        ids = torch.arange(self.batch * self.length, device=device) * 7919 % config.vocab_size
        self.ids = ids.reshape(self.batch, self.length)

        def forward(ids: Any, positions: Any) -> Any:
            hidden = decoder(
                input_ids=ids, position_ids=positions, past_key_values=self.cache, use_cache=True
            )
            return head(hidden.last_hidden_state)

        torch._dynamo.reset()
        # Without CUDA graphs a step of one token is bound by launching kernels.
        mode = "reduce-overhead" if device.type == "cuda" else "default"
        self.forward = torch.compile(forward, dynamic=False, mode=mode)
        self.logits: Any = None

    def prefill(self) -> None:
        """Compute the prompt into an empty cache."""
        import torch

        self.cache.reset()
        positions = torch.arange(self.length, device=self.device).expand(self.batch, -1)
        # A graph's output is overwritten by its next replay.
        self.logits = self.forward(self.ids, positions)[:, -1:].clone()

    def step(self, number: int) -> None:
        """Feed the likeliest token back."""
        import torch

        position = torch.full((self.batch, 1), self.length + number, device=self.device)
        self.logits = self.forward(self.logits.argmax(-1), position)[:, -1:].clone()

    def steps(self) -> None:
        """All further tokens."""
        for number in range(self.new_tokens):
            self.step(number)

    def kernels(self) -> dict[str, int]:
        """Products of one prefill and one step, as PyTorch's profiler saw them, with their calls."""
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with profile(activities=activities) as seen:
            self.prefill()
            self.step(0)
            self.wait()
        found: Counter[str] = Counter()
        for event in seen.events():
            name = event.name
            if any(part in name.lower() for part in _PRODUCTS):
                found[name[:120]] += 1
        return dict(sorted(found.items()))

    def wait(self) -> None:
        """Until the device is done."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, work: Any) -> float:
        """Wall milliseconds."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return (time.perf_counter() - start) * 1e3


def measured(run: Decoder, repeats: int) -> dict[str, Any]:
    """Medians after passes that compile and warm up."""
    start = time.perf_counter()
    # The first runs compile, the second ones record CUDA graphs.
    for _ in range(3):
        run.prefill()
        run.steps()
    run.wait()
    compile_s = time.perf_counter() - start
    prefills, steps = [], []
    for _ in range(repeats):
        prefills.append(run.timed(run.prefill))
        steps.append(run.timed(run.steps) / run.new_tokens)
    return {
        "batch_size": run.batch,
        "prompt_tokens": run.length,
        "new_tokens": run.new_tokens,
        "repeats": repeats,
        "prefill_ms": statistics.median(prefills),
        "per_token_ms": statistics.median(steps),
        "compile_s": compile_s,
    }


if __name__ == "__main__":
    main()
