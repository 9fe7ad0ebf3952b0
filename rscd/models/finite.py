"""Detection of NaN and infinity in weights and network outputs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def non_finite(values: Mapping[str, Any]) -> list[str]:
    """Names of the floating-point tensors that contain NaN or infinity; other entries are ignored.

    Args:
        values: tensors by name, such as a state dict.
    """
    return [
        name
        for name, value in values.items()
        if isinstance(value, Tensor) and value.is_floating_point() and not all_finite(value)
    ]


def all_finite(value: Tensor) -> bool:
    """Whether every value is finite; synchronises with the device."""
    return bool(torch.isfinite(value).all())
