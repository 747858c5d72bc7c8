"""Runs kernel cases in Triton's interpreter, on the CPU: ``python interpret.py CASES``.

``TRITON_INTERPRET`` must be set before Triton is imported, hence a process of its own. Prints the
cases that differ, one a line, and how many there were.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton.language as tl
from kernel_cases import CASES, same
from triton.runtime import interpreter


def round_to_nearest() -> None:
    """Let the interpreter round float32 to bfloat16 as hardware does.

    By itself it takes ties up instead of to even, and can lose the carry.
    """
    convert = interpreter._convert_float

    def rounding(data: Any, source: Any, target: Any, mode: Any) -> Any:
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(data, source, target, mode)
        values = torch.from_numpy(np.ascontiguousarray(data)).to(torch.bfloat16)
        return values.view(torch.int16).numpy().view(np.uint16).reshape(data.shape)

    interpreter._convert_float = rounding


if __name__ == "__main__":
    round_to_nearest()
    np.seterr(all="ignore")
    count = 0
    for name, found, expected in CASES[sys.argv[1]]("cpu"):
        count += 1
        if not same(found, expected):
            print(f"differs: {name}")
    print(f"{count} cases")
