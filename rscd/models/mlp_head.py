"""The light all-MLP head of DiffMatch (arXiv 2405.04788, section 3), and its network."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from rscd.base.types import ShapeHW
from rscd.models.logits import exact
from rscd.models.resize import resize, size_of

WIDTH = 256


class ConvNorm(nn.Module):
    """1x1 convolution without bias (Kaiming-normal, fan out), batch norm, ReLU."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 1, bias=False)
        self.bn = nn.BatchNorm2d(n_out)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B,n_in,h,w) -> (B,n_out,h,w)."""
        return torch.relu(self.bn(self.conv(x)))


class LightHead(nn.Module):
    """Project each level, resize to the finest, concatenate, fuse, classify."""

    def __init__(
        self, channels: Sequence[int], *, width: int = WIDTH, n_classes: int = 2, skip: int = 0
    ) -> None:
        """Build a head.

        Args:
            channels: of the levels it is given, finest first.
            width: of projections and fused features.
            n_classes: of the classifier.
            skip: number of levels to omit at the fine end of the pyramid.
        """
        super().__init__()
        self.skip = skip
        self.convs = nn.ModuleList(ConvNorm(count, width) for count in channels[skip:])
        self.fusion_conv = ConvNorm(width * len(self.convs), width)
        self.conv_seg = nn.Conv2d(width, n_classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        nn.init.constant_(cast(Tensor, self.conv_seg.bias), 0.0)

    def features(self, levels: Sequence[Tensor]) -> Tensor:
        """Fused features q: (B,width,h,w) at the size of the finest level used."""
        used = levels[self.skip :]
        projected = [conv(level) for conv, level in zip(self.convs, used, strict=True)]
        resized = [resize(level, size_of(used[0])) for level in projected]
        fused: Tensor = self.fusion_conv(torch.cat(resized, dim=1))
        return fused

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Logits (B,K,h,w)."""
        logits: Tensor = self.conv_seg(self.features(levels))
        return logits


def feature_distance(q_t1: Tensor, q_t2: Tensor, axis: int = 1) -> Tensor:
    """Distance between the features of both dates, sqrt(sum (q1 - q2 + 1e-6)^2).

    Args:
        q_t1: (B,C,h,w).
        q_t2: (B,C,h,w).
        axis: over which to sum: 1, the channels, is the paper's definition and gives (B,h,w). The
            authors' code sums over -1, the columns of the image, and gives (B,C,h); supported only
            for comparison with their numbers.
    """
    # the constant inside the square keeps the gradient of the root finite where both are equal
    return (exact(q_t1) - exact(q_t2) + 1e-6).square().sum(axis).sqrt()


def resize_distance(distance: Tensor, shape_hw: ShapeHW) -> Tensor:
    """(B,h,w) -> (B,H,W), bilinear: the distance is resized, not the features."""
    return resize(distance[:, None], shape_hw)[:, 0]
