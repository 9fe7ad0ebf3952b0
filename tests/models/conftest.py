"""Weights by rule: the reference forwards of KD-MSI's networks (README of their arrays)."""

import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

NORMS = (nn.BatchNorm2d, nn.GroupNorm)


def rule(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    random = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()))
    g = torch.from_numpy(random.standard_normal(shape))
    if len(shape) == 4:
        return g * (2 / np.prod(shape[1:])) ** 0.5
    if name.endswith("running_mean") or name.endswith("bias"):
        return 0.1 * g
    if name.endswith("running_var"):
        return 1 + 0.1 * g.abs()
    return (1 + 0.1 * g) * (0.3 if ".bn3." in name else 1.0)


@pytest.fixture(scope="session")
def fill_by_rule() -> Callable[[nn.Module, int, Callable[[str], str]], nn.Module]:
    """``fill(network, seed, canonical)``: all tensors by rule, in float64."""

    def fill(network: nn.Module, seed: int, canonical: Callable[[str], str]) -> nn.Module:
        network = network.double()
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                if name.startswith("normalize.") or name.endswith("num_batches_tracked"):
                    continue
                tensor.copy_(rule(seed, canonical(name), tuple(tensor.shape)))
        return network

    return fill


@pytest.fixture(scope="session")
def pairs_of() -> Callable[..., Tensor]:
    """(N,H,W,3) uint8 of both dates -> (N,2,3,H,W) float64 raw values."""

    def stack(arrays: dict[str, np.ndarray]) -> Tensor:
        both = np.stack([arrays["image_pre"], arrays["image_post"]], axis=1)
        return torch.from_numpy(both).permute(0, 1, 4, 2, 3).double()

    return stack
