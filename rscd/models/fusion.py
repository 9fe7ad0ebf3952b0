"""Fusion of the features of two dates."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rscd.base.errors import ModelError

FUSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "concat": lambda t1, t2: torch.cat([t1, t2], dim=1),
    "concat-reversed": lambda t1, t2: torch.cat([t2, t1], dim=1),
    "diff": lambda t1, t2: t2 - t1,
    "diff-reversed": lambda t1, t2: t1 - t2,
    "abs": lambda t1, t2: (t2 - t1).abs(),
}
"""(B,C,h,w) of t1 and of t2 -> one map; concatenation doubles the channels.

The reversed ones are the orders of KD-MSI: its classifier puts t2 first, its detector subtracts t2.
Only ``abs`` is symmetric in the dates.
"""


def fused_channels(fusion: str, channels: Sequence[int]) -> list[int]:
    """Channels per level after fusion.

    Raises:
        ModelError: for an unknown fusion.
    """
    if fusion not in FUSIONS:
        raise ModelError(f"expected a fusion among {', '.join(FUSIONS)}, found {fusion!r}")
    factor = 2 if fusion.startswith("concat") else 1
    return [factor * count for count in channels]


def fuse(fusion: str, t1: Sequence[Tensor], t2: Sequence[Tensor]) -> list[Tensor]:
    """Fuse two pyramids level by level."""
    return [FUSIONS[fusion](a, b) for a, b in zip(t1, t2, strict=True)]
