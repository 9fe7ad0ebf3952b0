"""Dense flow: warping, validity, units, and the effect of image transforms on flow.

Flow lives on the t2 grid and points to t1: t2 pixel ``p`` matches t1 location ``p + flow(p)``;
channel 0 is x (right), channel 1 is y (down). The unit is pixels of a *named* image size, whatever
grid the flow is stored on, so resizing the grid keeps the values and only a change of unit scales
them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rscd.base.errors import UsageError
from rscd.base.types import ShapeHW
from rscd.models.resize import resize


def pixel_grid(
    shape_hw: ShapeHW, *, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Tensor:
    """Coordinates of every pixel centre: (2,H,W), channel 0 = x, channel 1 = y."""
    height, width = shape_hw
    y, x = torch.meshgrid(
        torch.arange(height, dtype=dtype, device=device),
        torch.arange(width, dtype=dtype, device=device),
        indexing="ij",
    )
    return torch.stack([x, y])


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Sample ``image`` at ``p + flow(p)``, bilinear, zero outside.

    Applied to t1 it gives t1 as seen on the t2 grid. A sample half a pixel beyond the last column
    returns half of it: taps outside count as zero.

    Args:
        image: (B,C,H,W) of any floating type.
        flow: (B,2,H,W) in pixels of ``image``'s own grid.

    Returns:
        (B,C,H,W) in the type of ``image``; computed in float32 at least, also under autocast,
        because half precision cannot tell neighbouring pixels apart beyond column 2048.

    Raises:
        UsageError: if the two are not on the same grid.
    """
    if image.ndim != 4 or flow.shape != (image.shape[0], 2, *image.shape[2:]):
        raise UsageError(
            f"warp expects image (B,C,H,W) and flow (B,2,H,W) on one grid, found "
            f"{tuple(image.shape)} and {tuple(flow.shape)}; resize the flow and "
            "convert its unit with convert_unit"
        )
    dtype = torch.promote_types(torch.promote_types(image.dtype, flow.dtype), torch.float32)
    height, width = image.shape[2:]
    points = pixel_grid((height, width), dtype=dtype, device=flow.device) + flow.to(dtype)
    last = torch.tensor([max(width - 1, 1), max(height - 1, 1)], dtype=dtype, device=flow.device)
    grid = 2 * points.permute(0, 2, 3, 1) / last - 1
    with torch.autocast(image.device.type, enabled=False):
        sampled = F.grid_sample(
            image.to(dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=True
        )
    return sampled.to(image.dtype)


def inside(flow: Tensor) -> Tensor:
    """True where the sampling point lies in the t1 frame, borders included.

    Args:
        flow: (B,2,H,W) in pixels of its own grid.

    Returns:
        (B,1,H,W) bool: ``0 <= x+u <= W-1 and 0 <= y+v <= H-1``.
    """
    height, width = flow.shape[-2:]
    wide = flow.to(torch.promote_types(flow.dtype, torch.float32))
    x, y = (pixel_grid((height, width), dtype=wide.dtype, device=flow.device) + wide).unbind(1)
    return ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).unsqueeze(1)


def convert_unit(flow: Tensor, unit_hw: ShapeHW, new_unit_hw: ShapeHW) -> Tensor:
    """Express flow given in pixels of a ``unit_hw`` image in pixels of a ``new_unit_hw`` image.

    The grid is untouched. To warp a tensor on an (h,w) grid, ``new_unit_hw`` is (h,w).

    Args:
        flow: (...,2,h,w).
        unit_hw: image size whose pixels ``flow`` counts now.
        new_unit_hw: image size whose pixels the result counts.
    """
    factor = [new_unit_hw[1] / unit_hw[1], new_unit_hw[0] / unit_hw[0]]
    return flow * torch.tensor(factor, dtype=flow.dtype, device=flow.device).view(2, 1, 1)


def scale_flow(flow: Tensor, shape_hw: ShapeHW) -> Tensor:
    """Flow of a pair after both dates are resized to ``shape_hw``.

    Args:
        flow: (B,2,h,w) in pixels of its own (h,w) grid.
        shape_hw: the new size.

    Returns:
        (B,2,*shape_hw) in pixels of the new size.
    """
    height, width = flow.shape[-2:]
    return convert_unit(resize(flow, shape_hw), (height, width), shape_hw)


def flip_flow(flow: Tensor, dim: int) -> Tensor:
    """Flow of a pair after both dates are flipped along ``dim``: -1 mirrors x, -2 mirrors y.

    Args:
        flow: (...,2,H,W).
        dim: the flipped axis.
    """
    if dim not in (-1, -2):
        raise UsageError(f"flip_flow expects dim -1 (x) or -2 (y), found {dim}")
    sign = [-1.0, 1.0] if dim == -1 else [1.0, -1.0]
    return flow.flip(dim) * torch.tensor(sign, dtype=flow.dtype, device=flow.device).view(2, 1, 1)


def rot90_flow(flow: Tensor, turns: int) -> Tensor:
    """Flow of a pair after both dates are rotated by ``torch.rot90(x, turns, (-2, -1))``.

    One turn is counter-clockwise on the screen: what pointed right points up, (dx, dy) becomes
    (dy, -dx).

    Args:
        flow: (...,2,H,W).
        turns: number of quarter turns, any integer.
    """
    for _ in range(turns % 4):
        dx, dy = flow.rot90(1, (-2, -1)).unbind(-3)
        flow = torch.stack([dy, -dx], dim=-3)
    return flow
