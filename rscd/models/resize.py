"""The resampling of maps inside networks and losses."""

from torch import Tensor
from torch.nn import functional as F

from rscd.base.types import ShapeHW


def resize(x: Tensor, shape_hw: ShapeHW) -> Tensor:
    """(B,C,h,w) -> (B,C,*shape_hw), bilinear, half-pixel centres; the values stay as they are."""
    return F.interpolate(x, shape_hw, mode="bilinear", align_corners=False)


def size_of(x: Tensor) -> ShapeHW:
    """(height, width) of (...,H,W)."""
    return x.shape[-2], x.shape[-1]
