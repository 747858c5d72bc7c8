"""Lets torchvision be imported where its compiled operators are not there. For vLLM's environment only.

The torchvision that fits a CPU build of torch comes without them from some package indexes, and then does
not import: it registers kernels for operators that do not exist. What vLLM needs of it is Python. With this
folder and torchvision's on PYTHONPATH every process of vLLM leaves those registrations out.
"""

from __future__ import annotations

from typing import Any

import torch

_register = torch.library.register_fake


def _skipping(name: Any, *args: Any, **options: Any) -> Any:
    if str(name).startswith("torchvision::"):
        return lambda kernel: kernel
    return _register(name, *args, **options)


torch.library.register_fake = _skipping
