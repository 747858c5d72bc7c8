"""Where a model's weights are: on several devices, or brought to one for each forward pass.

accelerate attaches a hook to every module it places. It wraps ``module.forward``: the hook moves
the inputs, for an offloaded module fetches the weights from a map too, calls the module's own
forward, kept as ``module._old_forward``, and drops the weights again. Outside of it an offloaded
weight is on the device ``meta`` and has no values.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantspectrum.errors import UserError

__all__ = [
    "CPU_OFFLOAD",
    "DEVICE_MAPS",
    "check_device_map",
    "device_map_option",
    "execution_device",
    "inner_forward_slot",
    "input_device",
    "is_placed",
    "named_parameters",
    "named_tensors",
    "offload_to_cpu",
    "tensor_of",
    "tied_names",
    "weight_of",
]

CPU_OFFLOAD = "cpu-offload"
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential", CPU_OFFLOAD)


def weight_of(module: nn.Module) -> Tensor:
    """An op's weight with its values, wherever they live; see :func:`tensor_of`."""
    return tensor_of(module, "weight")


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """A parameter or buffer of a module with its values, detached, on the device it is kept on.

    That of an offloaded one is the CPU; where it computes, :func:`execution_device` says.

    Raises:
        UserError: The values are nowhere to be found.
    """
    tensor: Tensor | None = getattr(module, name)
    assert tensor is not None, f"the module has no {name}"
    if tensor.device.type != "meta":
        return tensor.detach()
    for hook in _hooks(module):
        try:
            # Its keys are those of the whole model, so that asking whether it holds one fails.
            found: Tensor = (getattr(hook, "weights_map", None) or {})[name]
        except KeyError:
            continue
        return found.detach()
    raise UserError(
        f"the {name} of a {type(module).__name__} is on the device 'meta' and was not offloaded "
        "by accelerate: it has no values; load the model without --device-map"
    )


def inner_forward_slot(module: nn.Module) -> str:
    """Name of the attribute that holds a module's own forward.

    What replaces it runs where accelerate, if it placed the module, has fetched weights and inputs.
    """
    return "_old_forward" if "_old_forward" in vars(module) else "forward"


def execution_device(module: nn.Module) -> torch.device:
    """Device an op computes on: where accelerate brings its weight, else where that is."""
    for hook in _hooks(module):
        if (device := getattr(hook, "execution_device", None)) is not None:
            return _device(device)
    return next((t.device for t in module.parameters()), torch.device("cpu"))


def is_placed(model: nn.Module) -> bool:
    """Whether accelerate has placed any part of the model."""
    return any("_hf_hook" in vars(module) for module in model.modules())


def input_device(model: nn.Module, default: torch.device) -> torch.device:
    """Device a model's inputs go to: that of its first weight to run, or the ``default``.

    The hook of a placed model brings its output back to where the inputs were.
    """
    if not is_placed(model):
        return default
    getter = getattr(model, "get_input_embeddings", None)
    try:
        first = getter() if getter is not None else None
    except NotImplementedError:  # what transformers raises for a model without embeddings
        first = None
    return execution_device(first) if isinstance(first, nn.Module) else default


def tied_names(model: nn.Module) -> dict[str, str]:
    """Name of every parameter and buffer to that of the first one it shares its values with.

    Tied weights are one tensor in a model loaded plainly, and several once they are offloaded;
    transformers says which ones they are then.
    """
    declared: dict[str, str] = {}
    if is_placed(model):
        declared = getattr(model, "all_tied_weights_keys", None) or {}
    first: dict[object, str] = {}
    tied: dict[str, str] = {}
    for name, tensor in _all_tensors(model):
        keys = (id(tensor), declared.get(name, name))
        tied[name] = next((first[key] for key in keys if key in first), name)
        for key in keys:
            first.setdefault(key, tied[name])
    return tied


def named_parameters(model: nn.Module) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Every parameter by name, tied ones once, with what reads its values."""
    tied = tied_names(model)
    for name, _ in model.named_parameters(remove_duplicate=False):
        if tied[name] == name:
            yield name, _reader(model, name)


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Every tensor a checkpoint holds by name, tied ones once, with what reads its values."""
    tied = tied_names(model)
    for name in model.state_dict(keep_vars=True):
        if tied[name] == name:
            yield name, _reader(model, name)


def _reader(model: nn.Module, name: str) -> Callable[[], Tensor]:
    owner, _, leaf = name.rpartition(".")
    return partial(tensor_of, model.get_submodule(owner), leaf)


def device_map_option(device_map: str) -> str | dict[str, int | str]:
    """What accelerate is given for ``--device-map``: a name, or what a JSON file says.

    Raises:
        UserError: The name is unknown, the file is wrong, or accelerate is not installed.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise UserError(
            "--device-map needs the accelerate package; run pip install quantspectrum[accelerate]"
        )
    if device_map in DEVICE_MAPS:
        return device_map
    path = Path(device_map)
    if not path.is_file():
        raise UserError(
            f"--device-map {device_map!r} is unknown; give {', '.join(DEVICE_MAPS)}, or a JSON "
            "file of module names and devices"
        )
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--device-map {path} is not JSON ({error}); correct it") from None
    if not isinstance(read, dict) or not all(type(place) in (int, str) for place in read.values()):
        raise UserError(
            f"--device-map {path} must be an object of module names and devices, such as "
            '{"model.embed_tokens": 0, "model.layers": "cpu"}; correct it'
        )
    return read


def check_device_map(model: nn.Module, places: Mapping[str, int | str], where: str) -> None:
    """Make sure that a device map speaks of this model, and of all of it.

    Raises:
        UserError: It names a module the model lacks, or leaves out a weight.
    """
    weights = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    known = {name for name, _ in model.named_modules()} | set(weights)
    if lacking := sorted(places.keys() - known):
        raise UserError(f"--device-map {where} places {lacking[0]!r}, which the model lacks")
    for name in weights:
        if not any(place in ("", name) or name.startswith(place + ".") for place in places):
            raise UserError(f"--device-map {where} places no {name}; add it, or a part it is in")


def offload_to_cpu(model: nn.Module, device: torch.device) -> None:
    """Keep the weights on the CPU and compute on ``device``, one module at a time."""
    accelerate = importlib.import_module("accelerate")
    accelerate.cpu_offload(model, execution_device=device)


def _all_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _hooks(module: nn.Module) -> Iterator[Any]:
    """The hooks of a module, those in a row one by one."""
    waiting = [vars(module).get("_hf_hook")]
    while waiting:
        hook = waiting.pop(0)
        if hook is not None:
            yield hook
            waiting = [*getattr(hook, "hooks", ()), *waiting]


def _device(device: int | str | torch.device) -> torch.device:
    return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
