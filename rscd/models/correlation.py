"""Similarity of every position of t2 to positions of t1: global and local correlation volumes.

Sources: SimSaC (Park et al., CVPR 2022) and GLU-Net (CVPR 2020).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rscd.base.errors import UsageError
from rscd.models.flow import pixel_grid

BLOCK = 8
"""Side of the blocks of t2 that are multiplied with a window of t1 in one matrix product."""


def l2_normalize(x: Tensor, eps: float = 1e-6) -> Tensor:
    """(B,C,H,W) divided by ``sqrt(sum over C of x^2 + eps)``; `eps` keeps gradients finite at 0."""
    return x / (x.square().sum(1, keepdim=True) + eps).sqrt()


def global_correlation(t1: Tensor, t2: Tensor) -> Tensor:
    """Cosine similarity of every position of t1 with every position of t2.

    Args:
        t1: (B,C,H1,W1).
        t2: (B,C,H2,W2).

    Returns:
        (B,H1,W1,H2,W2) in [-1,1].
    """
    return torch.einsum("bcij,bckl->bijkl", l2_normalize(t1), l2_normalize(t2))


def mutual_matching(correlation: Tensor, eps: float = 1e-5) -> Tensor:
    """Scale each entry by how close it is to the best match of either of its positions.

    Args:
        correlation: (B,H1,W1,H2,W2).
        eps: added to the best matches.
    """
    best_t1 = correlation.amax((1, 2), keepdim=True) + eps
    best_t2 = correlation.amax((3, 4), keepdim=True) + eps
    return correlation * ((correlation / best_t1) * (correlation / best_t2))


def match_channels(t1: Tensor, t2: Tensor) -> Tensor:
    """Mutual matches as channels: the input of the coarsest level of a flow network.

    Args:
        t1: (B,C,H1,W1).
        t2: (B,C,H2,W2).

    Returns:
        (B,H1*W1,H2,W2), channels in row-major order of t1's positions, not negative, of unit
        length.
    """
    return l2_normalize(mutual_matching(global_correlation(t1, t2)).flatten(1, 2).relu())


def map_to_flow(points: Tensor) -> Tensor:
    """Flow of a map of normalised coordinates.

    Args:
        points: (B,2,H,W), x and y in [-1,1] between the centres of the outermost pixels.

    Returns:
        (B,2,H,W) pixels of the map's own grid.
    """
    height, width = points.shape[-2:]
    last = torch.tensor([width - 1, height - 1], dtype=points.dtype, device=points.device)
    grid = pixel_grid((height, width), dtype=points.dtype, device=points.device)
    return (points + 1) * last.view(2, 1, 1) / 2 - grid


def local_correlation(t2: Tensor, t1: Tensor, radius: int = 4) -> Tensor:
    """Mean over channels of ``t2(p) * t1(p + d)`` for all shifts of up to `radius`; zero outside.

    Every block of 8 x 8 positions of t2 is multiplied with the window of t1 it can reach in one
    matrix product, whose needed entries lie at regular strides. Only a third of the products is
    needed, but this is still faster than one pass over memory per shift, and never allocates C x (2
    radius + 1)^2 x H x W values, as unfolding would.

    Args:
        t2: (B,C,H,W) features.
        t1: (B,C,H,W) features, warped to t2.
        radius: largest shift along x and y.

    Returns:
        (B,(2*radius+1)^2,H,W); channel ``(dy + radius) * (2*radius + 1) + dx + radius``. At least
        float32, also under autocast. Differentiable once in both.

    Raises:
        UsageError: if the two have different shapes.
    """
    if t2.ndim != 4 or t1.shape != t2.shape:
        raise UsageError(
            f"local_correlation expects two (B,C,H,W) of one shape, found {tuple(t2.shape)} and "
            f"{tuple(t1.shape)}; warp t1 to the grid of t2"
        )
    dtype = torch.promote_types(torch.promote_types(t1.dtype, t2.dtype), torch.float32)
    with torch.autocast(t2.device.type, enabled=False):
        found: Tensor = _LocalCorrelation.apply(t2.to(dtype), t1.to(dtype), radius)
    return found


class _LocalCorrelation(torch.autograd.Function):
    """Saves its inputs for the backward pass, not the windows."""

    @staticmethod
    def forward(ctx: Any, t2: Tensor, t1: Tensor, radius: int) -> Tensor:
        ctx.save_for_backward(t2, t1)
        ctx.radius = radius
        products = _blocks(t2).mT @ _windows(t1, radius)
        return _joined(_band(products, radius), t2.shape[-2:]) / t2.shape[1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        t2, t1 = ctx.saved_tensors
        radius, shape_hw = ctx.radius, t2.shape[-2:]
        cut = _blocks(gradient / t2.shape[1]).mT
        products = cut.new_zeros(len(cut), BLOCK**2, (BLOCK + 2 * radius) ** 2)
        band = _band(products, radius)
        band.copy_(cut.reshape(band.shape))
        grad_t2 = grad_t1 = None
        if ctx.needs_input_grad[0]:
            grad_blocks = products @ _windows(t1, radius).mT
            grad_t2 = _joined(grad_blocks.view(len(cut), BLOCK, BLOCK, -1, 1), shape_hw)
        if ctx.needs_input_grad[1]:
            grad_t1 = _overlapped(_blocks(t2) @ products, len(t1), shape_hw, radius)
        return grad_t2, grad_t1, None


def _block_counts(shape_hw: torch.Size) -> tuple[int, int]:
    return -(-shape_hw[0] // BLOCK), -(-shape_hw[1] // BLOCK)


def _blocks(x: Tensor) -> Tensor:
    """(B,C,H,W) -> (B*rows*columns, C, BLOCK^2), padded with zeros to whole blocks."""
    batch, channels, height, width = x.shape
    rows, columns = _block_counts(x.shape[-2:])
    padded = F.pad(x, (0, columns * BLOCK - width, 0, rows * BLOCK - height))
    cut = padded.view(batch, channels, rows, BLOCK, columns, BLOCK)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, BLOCK**2)


def _windows(x: Tensor, radius: int) -> Tensor:
    """(B,C,H,W) -> (B*rows*columns, C, (BLOCK+2*radius)^2): what each block can reach."""
    channels, height, width = x.shape[1:]
    rows, columns = _block_counts(x.shape[-2:])
    right, below = columns * BLOCK - width + radius, rows * BLOCK - height + radius
    padded = F.pad(x, (radius, right, radius, below))
    side = BLOCK + 2 * radius
    cut = padded.unfold(2, side, BLOCK).unfold(3, side, BLOCK)
    return cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels, side**2)


def _overlapped(windows: Tensor, batch: int, shape_hw: torch.Size, radius: int) -> Tensor:
    """The transpose of `_windows`: sums windows where they overlap, (B,C,H,W).

    Windows that are `step` apart do not overlap, so they are added all at once.
    """
    rows, columns = _block_counts(shape_hw)
    side, channels = BLOCK + 2 * radius, windows.shape[1]
    step = -(-side // BLOCK)
    cut = windows.view(batch, rows, columns, channels, side, side)
    size = [-(-count // step) * step * BLOCK + (step - 1) * BLOCK for count in (rows, columns)]
    total = windows.new_zeros(batch, channels, *size)
    for y in range(min(step, rows)):
        for x in range(min(step, columns)):
            part = cut[:, y::step, x::step].permute(0, 3, 1, 4, 2, 5)
            down, across = part.shape[2], part.shape[4]
            place = total[..., y * BLOCK :, x * BLOCK :]
            place = place[..., : down * step * BLOCK, : across * step * BLOCK]
            room = place.unfold(2, side, step * BLOCK).unfold(3, side, step * BLOCK)
            room += part.permute(0, 1, 2, 4, 3, 5)
    height, width = shape_hw
    return total[..., radius : radius + height, radius : radius + width].contiguous()


def _band(products: Tensor, radius: int) -> Tensor:
    """View of (N, BLOCK^2, side^2) products as (N, BLOCK, BLOCK, shifts of y, shifts of x).

    Position (y, x) of a block and shift (dy, dx) correspond to column (y + dy) * side + x + dx of
    the window, so entries lie at constant strides.
    """
    side, span = BLOCK + 2 * radius, 2 * radius + 1
    return products.as_strided(
        (len(products), BLOCK, BLOCK, span, span),
        (BLOCK**2 * side**2, BLOCK * side**2 + side, side**2 + 1, side, 1),
    )


def _joined(blocks: Tensor, shape_hw: torch.Size) -> Tensor:
    """(B*rows*columns, BLOCK, BLOCK, m, n) -> (B,m*n,H,W)."""
    rows, columns = _block_counts(shape_hw)
    cut = blocks.reshape(-1, rows, columns, BLOCK, BLOCK, blocks.shape[3] * blocks.shape[4])
    whole = cut.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
    return whole[..., : shape_hw[0], : shape_hw[1]].contiguous()
