"""EfficientNet-Lite0 down to stride 16 (arXiv 1905.11946, without squeeze and excitation).

The parts, names and weights are those of timm's ``tf_efficientnet_lite0``, whose import brings
torchvision and torch's compiler and would take longer than the prediction of a small scene.
"""

import math
from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

STEM = 32
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))
"""Blocks, kernel size, stride, expansion and channels."""
ENDS = (0, 1, 2, 4)
"""Stages after which strides 2, 4, 8 and 16 are complete."""
EPSILON = 1e-3
"""Of batch norms, as in TensorFlow."""


class SameConv(nn.Conv2d):
    """Padded as in TensorFlow: an odd pixel goes to the right and the bottom.

    For inputs whose sides are multiples of the stride.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B,n_in,h,w) -> (B,n_out,h/stride,w/stride)."""
        rest = self.kernel_size[0] - self.stride[0]
        before, after = rest // 2, rest - rest // 2
        return super().forward(F.pad(input, (before, after, before, after)))


def _conv(n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride > 1:
        return SameConv(n_in, n_out, kernel, stride, groups=groups, bias=False)
    return nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, groups=groups, bias=False)


class Norm(nn.BatchNorm2d):
    """A batch norm, then ReLU6 where `active`."""

    def __init__(self, width: int, *, active: bool) -> None:
        super().__init__(width, EPSILON)
        self.act = nn.ReLU6(inplace=True) if active else nn.Identity()

    def forward(self, input: Tensor) -> Tensor:
        """Of the same shape."""
        out: Tensor = self.act(super().forward(input))
        return out


class Block(nn.Sequential):
    """Expansion (unless it is 1), depthwise convolution, projection; added to what fits."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, expand: int) -> None:
        inner = n_in * expand
        convs = [] if expand == 1 else [("conv_pw", _conv(n_in, inner, 1))]
        convs.append(("conv_dw", _conv(inner, inner, kernel, stride, groups=inner)))
        convs.append(("conv_pw" if expand == 1 else "conv_pwl", _conv(inner, n_out, 1)))
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (name, conv) in enumerate(convs, 1):
            parts[name] = conv
            parts[f"bn{number}"] = Norm(conv.out_channels, active=number < len(convs))
        super().__init__(parts)
        self.residual = stride == 1 and n_in == n_out

    def forward(self, input: Tensor) -> Tensor:
        """(B,n_in,h,w) -> (B,n_out,h/stride,w/stride)."""
        out = input
        for part in self:
            out = part(out)
        return input + out if self.residual else out


class Lite0Encoder(nn.Module):
    """(B,C,H,W) -> maps of strides 2, 4, 8, 16; sides are multiples of 16."""

    def __init__(self, n_bands: int) -> None:
        """Build it with random weights."""
        super().__init__()
        self.conv_stem = _conv(n_bands, STEM, 3, 2)
        self.bn1 = Norm(STEM, active=True)
        stages, width = [], STEM
        for n_blocks, kernel, stride, expand, n_out in STAGES:
            steps = []
            for number in range(n_blocks):
                steps.append(Block(width, n_out, kernel, 1 if number else stride, expand))
                width = n_out
            stages.append(nn.Sequential(*steps))
        self.blocks = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                # uniform: normal numbers on the meta device import torch's compiler, seconds
                bound = math.sqrt(3 * 2 / fan_out)
                nn.init.uniform_(module.weight, -bound, bound)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps, finest first."""
        out: Tensor = self.bn1(self.conv_stem(image))
        maps = []
        for number, stage in enumerate(self.blocks):
            out = stage(out)
            if number in ENDS:
                maps.append(out)
        return maps
