"""Normalize: the first layer of every network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Raw sensor values -> network range, per band: (value - mean) / std.

    Mean and standard deviation are buffers saved with the weights, so that training, tiled
    prediction and notebooks always use the same values.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Store one mean and one positive standard deviation per band."""
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        """(...,C,H,W) raw -> (...,C,H,W) normalised."""
        return (image - self.mean) / self.std
