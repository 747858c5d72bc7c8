"""SmoothQuant and GPTQ by llm-compressor; gives back the weights it changed, and GPTQ's scales.

Request, besides the model: ``mappings`` (for SmoothQuant: ``[[names of Linears], name of the norm that feeds them]`` each; or null),
``strength`` (SmoothQuant's alpha), ``groups`` (for GPTQ: compressed-tensors config groups; or
null), ``pipeline``. Result: ``versions``, ``changed`` (tensors in ``changed.safetensors``, those
named ``….weight_scale`` among them). Only what the request names is touched: no ignore list is
needed, and none can go wrong.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from _exchange import (
    batches_of,
    load_model,
    progress,
    read_request,
    read_tensors,
    usage,
    versions,
    write_result,
)

# llm-compressor logs to the standard output it finds when it is imported, where an error's last
# line would get lost among its own.
with contextlib.redirect_stdout(sys.stderr):
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier


def calibration() -> Any:
    """The batches, one sample each, as llm-compressor takes them."""
    from torch.utils.data import DataLoader

    batches = batches_of(read_tensors(), "calibration")
    return DataLoader(batches, batch_size=1, collate_fn=lambda items: items[0])


def recipe(request: dict[str, Any]) -> list[Any]:
    """The modifiers, in the order they are applied."""
    made: list[Any] = []
    if request["mappings"] is not None:
        made.append(
            SmoothQuantModifier(
                smoothing_strength=request["strength"], mappings=request["mappings"]
            )
        )
    if request["groups"] is not None:
        made.append(GPTQModifier(config_groups=request["groups"], ignore=[]))
    return made


def touched(request: dict[str, Any]) -> list[str]:
    """Names of the modules that may change."""
    names: dict[str, None] = {}
    for balanced, norm in request["mappings"] or ():
        names |= dict.fromkeys([*balanced, norm])
    for group in (request["groups"] or {}).values():
        names |= dict.fromkeys(group["targets"])
    return list(names)


def collect(model: Any, names: list[str]) -> dict[str, Any]:
    """Their tensors as they are now."""
    found = {}
    for name in names:
        module = model.get_submodule(name)
        for leaf in ("weight", "bias", "weight_scale", "weight_zero_point", "weight_g_idx"):
            value = getattr(module, leaf, None)
            if value is None:
                continue
            if leaf == "weight_g_idx":
                raise ValueError(f"{name}: columns are ordered by groups, which is not supported")
            if leaf == "weight_zero_point":
                if value.any():
                    raise ValueError(f"{name}: a symmetric weight has zero points")
                continue
            found[f"{name}.{leaf}"] = value.detach().cpu().contiguous().clone()
    return found


def main() -> None:
    """Do what the request asks."""
    request = read_request()
    import transformers
    from safetensors.torch import save_file

    model = load_model(request).to(request["device"])
    known = dict(model.named_modules())
    if missing := [name for name in touched(request) if name not in known]:
        raise ValueError(
            f"transformers {transformers.__version__} names no module {missing[0]!r} in this model"
        )
    progress(1, 3)
    oneshot(
        model=model,
        recipe=recipe(request),
        dataset=calibration(),
        pipeline=request["pipeline"],
        # The batches are encoded already, and the processor of a model that sees pictures needs
        # packages that nothing here does.
        processor=object(),
    )
    progress(2, 3)
    changed = collect(model, touched(request))
    save_file(changed, "changed.safetensors")
    progress(3, 3)
    write_result(
        {
            "changed": sorted(changed),
            "versions": versions("llmcompressor", "compressed-tensors", "torch", "transformers"),
            "usage": usage(),
        }
    )


if __name__ == "__main__":
    main()
