"""A small scene network for CPUs and tests: the structure of SimSaC at a reduced size.

Group norm instead of batch norm, so nothing depends on the batch; plain heads of three layers;
bilinear instead of learned upsampling; level 4 predicts a bounded offset instead of an absolute
map, and every flow head is initialised to zero, so that the initial flow is exactly 0 and learning
starts at once.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from rscd.models.encoders import build_encoder
from rscd.models.inputs import normalize_layer
from rscd.models.resize import resize, size_of
from rscd.models.scene import (
    BilinearUp,
    SceneDecoder,
    SceneEncoder,
    SceneNetwork,
    check_scene_arguments,
    load_scene_weights,
)
from rscd.models.statistics import imagenet_statistics

RADIUS = 3
WIDTHS = (16, 32, 48, 64)
"""Channels at strides 2, 4, 8, 16."""
FPN_WIDTH = 32
HEAD_WIDTHS = (48, 32, 24)
GROUPS = 8
COMPACT = "compact"
"""Name of the built-in encoder."""


def conv_group(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, group norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.GroupNorm(GROUPS, n_out), nn.ReLU()
    )


class CompactStages(nn.Module):
    """Four stages of two layers, the first of stride 2."""

    def __init__(self, n_bands: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(conv_group(a, b, 2), conv_group(b, b))
            for a, b in pairwise((n_bands, *WIDTHS))
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B,C,H,W) -> the image and maps of strides 2, 4, 8, 16."""
        maps = [image]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


class Fpn(SceneEncoder):
    """Feature pyramid over any encoder: coarse maps are added to fine ones.

    The finest map is the encoder's own: no head uses it, so layers on top would never be trained.
    """

    def __init__(self, stages: nn.Module, channels: Sequence[int]) -> None:
        """Wrap an encoder.

        Args:
            stages: (B,C,H,W) -> the image and maps of strides 2, 4, 8, 16.
            channels: of the four maps.
        """
        super().__init__()
        self.stages = stages
        self.laterals = nn.ModuleList(nn.Conv2d(n, FPN_WIDTH, 1) for n in channels[1:])
        self.outputs = nn.ModuleList(nn.Conv2d(FPN_WIDTH, FPN_WIDTH, 3, 1, 1) for _ in channels[1:])

    def forward(self, image: Tensor, *, deepest: bool = True) -> list[Tensor]:
        """(B,C,H,W) -> strides 2, 4, 8, 16; always with the last, which the others need."""
        _, finest, *maps = self.stages(image)
        top = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for level in range(len(top) - 2, -1, -1):
            top[level] = top[level] + resize(top[level + 1], size_of(top[level]))
        return [finest, *(output(x) for output, x in zip(self.outputs, top, strict=True))]


def plain(n_in: int, n_out: int, *, zero: bool = False) -> nn.Sequential:
    """Three layers and a final convolution, initialised to zero if `zero`."""
    layers = [conv_group(a, b) for a, b in pairwise((n_in, *HEAD_WIDTHS))]
    last = nn.Conv2d(HEAD_WIDTHS[-1], n_out, 3, 1, 1)
    if zero:
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
    return nn.Sequential(*layers, last)


class OffsetHead(nn.Module):
    """Mutual matches -> flow of up to half the low image."""

    def __init__(self, n_matches: int, low_size: int) -> None:
        super().__init__()
        self.layers = plain(n_matches, 2, zero=True)
        self.low_size = low_size

    def forward(self, matches: Tensor) -> Tensor:
        """(B,n,h,w) -> (B,2,h,w) pixels of the low image."""
        offset: Tensor = self.layers(matches)
        return offset.tanh() * self.low_size / 2


class PlainFlowHead(nn.Module):
    """Correlation and flow -> flow with a correction."""

    def __init__(self, n_shifts: int) -> None:
        super().__init__()
        self.layers = plain(n_shifts + 2, 2, zero=True)

    def forward(
        self, correlation: Tensor, flow: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(B,n,h,w), (B,2,h,w) -> flow (B,2,h,w), and the correlation: no context is passed on."""
        return flow + self.layers(torch.cat([correlation, flow], 1)), correlation


def scene_compact(
    n_bands: int = 3,
    encoder: str = COMPACT,
    encoder_weights: str | None = None,
    weights: str | None = None,
    n_classes: int = 1,
    low_size: int = 128,
    radius: int = RADIUS,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> SceneNetwork:
    """The compact scene network; 614 364 parameters with three bands, one class and radius 3.

    Args:
        n_bands: bands per date.
        encoder: ``compact``, or an encoder of `rscd.models.encoders` such as ``resnet18``.
        encoder_weights: pretrained weights of that encoder.
        weights: a checkpoint or file of a trained network like this one, or None.
        n_classes: 1, or 2: no change and change.
        low_size: side of the low image, a multiple of 16.
        radius: of the local correlation.
        mean: per band; default ImageNet's, of 8-bit values.
        std: per band; default likewise.

    Raises:
        ModelError: for weights that cannot be had or do not fit.
    """
    check_scene_arguments(low_size, weights)
    matches, shifts = (low_size // 16) ** 2, (2 * radius + 1) ** 2
    seen = (matches, shifts, shifts, shifts)
    network = SceneNetwork(
        normalize=normalize_layer(n_bands, mean, std, imagenet_statistics(n_bands)),
        encoder=_encoder(encoder, n_bands, encoder_weights),
        decoder=SceneDecoder(
            start=OffsetHead(matches, low_size),
            flow_heads=[PlainFlowHead(shifts) for _ in range(3)],
            change_heads=[plain(2 * FPN_WIDTH + n, n_classes) for n in seen],
            flow_ups=[BilinearUp(), BilinearUp()],
            change_ups=[BilinearUp(), BilinearUp()],
            context_up=None,
            low_size=low_size,
            radius=radius,
        ),
        n_bands=n_bands,
    )
    if weights is not None:
        load_scene_weights(network, weights)
    return network


def _encoder(name: str, n_bands: int, weights: str | None) -> Fpn:
    if name == COMPACT:
        return Fpn(CompactStages(n_bands), WIDTHS)
    backbone = build_encoder(name, n_bands=n_bands, weights=weights, depth=4)
    return Fpn(backbone.module, backbone.channels[1:])
