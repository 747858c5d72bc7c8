"""What vLLM fuses and renames, per architecture, read from its classes. Runs in its environment only.

    python vllm_fusion.py OUT.json [ARCHITECTURE ...]

Every architecture of vLLM's registry is imported, and `packed_modules_mapping` (fused module to the
modules of the checkpoint) and `hf_to_vllm_mapper` (names in the checkpoint to names in vLLM) are
read where its class has them. What cannot be imported is listed with the kind of error. Many need torchvision: see
`without_operators/`. Nothing of quantspectrum is imported.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["VLLM_NO_USAGE_STATS"] = "1"

MAPS = ("orig_to_new_prefix", "orig_to_new_substr", "orig_to_new_suffix", "orig_to_new_regex")


def main() -> None:
    from vllm import __version__
    from vllm.model_executor.models.registry import ModelRegistry

    wanted = sys.argv[2:] or sorted(ModelRegistry.get_supported_archs())
    found: dict[str, Any] = {"engine": "vllm", "version": __version__}
    found |= {"architectures": {}, "not_imported": {}}
    for architecture in wanted:
        try:
            model = ModelRegistry.models[architecture].load_model_cls()
        except Exception as error:  # noqa: BLE001 - some need packages that are not there
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            found["not_imported"][architecture] = f"{type(error).__name__} {missing or ''}".strip()
            continue
        found["architectures"][architecture] = {
            "class": f"{model.__module__}.{model.__name__}",
            "packed_modules_mapping": getattr(model, "packed_modules_mapping", None),
            "names": names(getattr(model, "hf_to_vllm_mapper", None)),
        }
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1, sort_keys=True, default=str) + "\n")


def names(mapper: Any) -> dict[str, Any]:
    """The parts of a mapper of names that are not empty, rules of expressions as their text."""
    made: dict[str, Any] = {}
    for part in MAPS:
        if rules := getattr(mapper, part, None):
            made[part] = {getattr(k, "pattern", k): v for k, v in rules.items()}
    return made


if __name__ == "__main__":
    main()
