"""Decoder of KD-MSI's siamese DeepLabV3+ (arXiv 2403.05796, code; methods section 5).

Other DeepLabs differ: no separable convolutions here, group norm, dilations 6, 12, 18 at stride
16, three convolutions after the skip. Group norm and the pooled branch depend on the whole image:
use the image size of training.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rscd.models.statistics import Statistics

GROUPS = 4
WIDTH = 256
LOW_WIDTH = 48
DILATIONS = (1, 6, 12, 18)
LOW_LEVEL = 2
"""Level of stride 4."""


def kdmsi_statistics(n_bands: int) -> Statistics:
    """KD-MSI maps 8-bit values to -1..1, even with ImageNet weights."""
    return (127.5,) * n_bands, (127.5,) * n_bands


class AtrousBranch(nn.Module):
    """Dilated convolution (1x1 for dilation 1, else 3x3), group norm, ReLU."""

    def __init__(self, n_in: int, dilation: int) -> None:
        super().__init__()
        kernel, padding = (1, 0) if dilation == 1 else (3, dilation)
        self.atrous_conv = nn.Conv2d(
            n_in, WIDTH, kernel, padding=padding, dilation=dilation, bias=False
        )
        self.bn = nn.GroupNorm(GROUPS, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(B,n_in,h,w) -> (B,WIDTH,h,w)."""
        return torch.relu(self.bn(self.atrous_conv(x)))


class Aspp(nn.Module):
    """Four dilations and the image mean, concatenated and fused."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.aspp1, self.aspp2, self.aspp3, self.aspp4 = (
            AtrousBranch(n_in, dilation) for dilation in DILATIONS
        )
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(n_in, WIDTH, 1, bias=False),
            nn.GroupNorm(GROUPS, WIDTH),
            nn.ReLU(),
        )
        self.conv1 = nn.Conv2d(5 * WIDTH, WIDTH, 1, bias=False)
        self.bn1 = nn.GroupNorm(GROUPS, WIDTH)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B,n_in,h,w) -> (B,WIDTH,h,w)."""
        pooled = self.global_avg_pool(x).expand(-1, -1, *x.shape[-2:])
        branches = [branch(x) for branch in (self.aspp1, self.aspp2, self.aspp3, self.aspp4)]
        fused: Tensor = self.bn1(self.conv1(torch.cat([*branches, pooled], dim=1)))
        dropped: Tensor = self.dropout(torch.relu(fused))
        return dropped


class SkipDecoder(nn.Module):
    """Join context with the stride-4 level and classify."""

    def __init__(self, n_low: int, n_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_low, LOW_WIDTH, 1, bias=False)
        self.bn1 = nn.GroupNorm(GROUPS, LOW_WIDTH)
        self.classifier = nn.Sequential(
            nn.Conv2d(WIDTH + LOW_WIDTH, WIDTH, 3, padding=1, bias=False),
            nn.GroupNorm(GROUPS, WIDTH),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            nn.GroupNorm(GROUPS, WIDTH),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(WIDTH, n_classes, 1),
        )

    def forward(self, context: Tensor, low: Tensor) -> Tensor:
        """(B,WIDTH,h,w) and (B,n_low,H/4,W/4) -> logits (B,K,H/4,W/4)."""
        low = torch.relu(self.bn1(self.conv1(low)))
        context = F.interpolate(context, low.shape[-2:], mode="bilinear", align_corners=True)
        logits: Tensor = self.classifier(torch.cat([context, low], dim=1))
        return logits


class DeepLabDecoder(nn.Module):
    """Fused levels -> logits at stride 4; tensors have the published names."""

    def __init__(self, channels: Sequence[int], n_classes: int = 2) -> None:
        """Build it for the channels of all levels; Kaiming-normal convolutions."""
        super().__init__()
        self.aspp = Aspp(channels[-1])
        self.decoder = SkipDecoder(channels[LOW_LEVEL], n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels by stride 2**k -> (B,K,H/4,W/4)."""
        logits: Tensor = self.decoder(self.aspp(levels[-1]), levels[LOW_LEVEL])
        return logits
