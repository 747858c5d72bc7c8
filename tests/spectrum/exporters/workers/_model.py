"""What the workers share: the model of the request and its calibration samples."""

from typing import Any

import torch
import transformers
from _exchange import read_tensors


def load(request: dict[str, Any], **more: Any) -> Any:
    torch.manual_seed(0)
    cls = getattr(transformers, request["class"])
    return cls.from_pretrained(request["model"], dtype=torch.float32, **more).eval()


def samples(request: dict[str, Any]) -> list[dict[str, Any]]:
    tensors = read_tensors()
    return [
        {key.partition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{i}.")}
        for i in range(request["batches"])
    ]
