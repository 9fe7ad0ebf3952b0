"""SimSaC in full: VGG-16 pyramid, dense flow heads, gated change heads (Park et al., CVPR 2022).

Two unused upsamplers of the release are omitted, the change head has one channel with a sigmoid
(the same function as two with a softmax) unless configured otherwise, and the low image is resized
in floating point, where the release truncates to integers.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from rscd.base.types import ShapeHW
from rscd.models.correlation import map_to_flow
from rscd.models.downloads import downloading, load_file_into, load_tensors_into
from rscd.models.flow import convert_unit
from rscd.models.inputs import normalize_layer
from rscd.models.scene import (
    SLOPE,
    SceneDecoder,
    SceneEncoder,
    SceneNetwork,
    check_scene_arguments,
    holds_decoder,
    is_scene_file,
    load_scene_weights,
)
from rscd.models.statistics import imagenet_statistics

RADIUS = 4
WIDTHS = (128, 128, 96, 64, 32)
"""Channels of the layers of a head."""
CONTEXT_WIDTHS = (128, 128, 128, 96, 64, 32)
DILATIONS = (1, 2, 4, 8, 16, 1)
VGG_CUTS = (2, 5, 10, 17, 24)
"""Indices at which torchvision's VGG-16 ``features`` are split: strides 1, 2, 4, 8, 16."""
VGG_WIDTHS = (64, 128, 256, 512)


def conv_norm(n_in: int, n_out: int, slope: float, dilation: int = 1) -> nn.Sequential:
    """3x3 convolution, batch norm, (leaky) ReLU; same size."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=dilation, dilation=dilation),
        nn.BatchNorm2d(n_out),
        nn.LeakyReLU(slope) if slope else nn.ReLU(),
    )


class VggPyramid(SceneEncoder):
    """Torchvision's VGG-16 up to stride 16."""

    def __init__(self, n_bands: int, weights: str | None) -> None:
        """Build it.

        Args:
            n_bands: bands of an image.
            weights: ``imagenet``; a local file of torchvision's VGG-16; or None: random.

        Raises:
            ModelError: for weights that cannot be obtained.
        """
        from torchvision.models import VGG16_Weights  # seconds to import
        from torchvision.models.vgg import cfgs, make_layers

        super().__init__()
        layers = make_layers(cfgs["D"], batch_norm=False)[: VGG_CUTS[-1]]
        if n_bands != 3:
            layers[0] = nn.Conv2d(n_bands, VGG_WIDTHS[0], 3, padding=1)
        self.features = layers
        _initialize(self)
        if is_scene_file(weights):
            load_file_into(self, str(weights))
        elif weights is not None:
            published = VGG16_Weights.IMAGENET1K_V1
            with downloading("of VGG-16", published.url):
                tensors = published.get_state_dict(progress=False, check_hash=True)
            load_tensors_into(self, tensors, published.url)

    def forward(self, image: Tensor, *, deepest: bool = True) -> list[Tensor]:
        """(B,C,H,W) -> strides 2, 4, 8 and, if requested, 16."""
        cuts = VGG_CUTS if deepest else VGG_CUTS[:-1]
        x, maps = image, []
        for start, stop in pairwise((0, *cuts)):
            x = self.features[start:stop](x)
            maps.append(x)
        return maps[1:]


class Dense(nn.Module):
    """Five densely connected layers; outputs are concatenated newest first."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        sizes = [n_in + sum(WIDTHS[:i]) for i in range(len(WIDTHS))]
        self.layers = nn.ModuleList(
            conv_norm(size, width, SLOPE) for size, width in zip(sizes, WIDTHS, strict=True)
        )
        self.n_out = n_in + sum(WIDTHS)

    def forward(self, x: Tensor) -> Tensor:
        """(B,n_in,h,w) -> (B,n_out,h,w)."""
        for layer in self.layers:
            x = torch.cat([layer(x), x], 1)
        return x


def plain(n_in: int, n_out: int) -> nn.Sequential:
    """Five layers in sequence and a final convolution."""
    sizes = (n_in, *WIDTHS)
    layers = [conv_norm(a, b, 0.0) for a, b in pairwise(sizes)]
    return nn.Sequential(*layers, nn.Conv2d(WIDTHS[-1], n_out, 3, padding=1))


def wide_context(n_in: int) -> nn.Sequential:
    """Dilated layers with a large receptive field, and a final convolution to two channels."""
    sizes = (n_in, *CONTEXT_WIDTHS)
    layers = [
        conv_norm(a, b, SLOPE, dilation)
        for (a, b), dilation in zip(pairwise(sizes), DILATIONS, strict=True)
    ]
    return nn.Sequential(*layers, nn.Conv2d(CONTEXT_WIDTHS[-1], 2, 3, padding=1))


class DenseFlowHead(nn.Module):
    """Correlation, flow and context -> corrected flow, optionally corrected twice."""

    def __init__(self, n_in: int, *, second: bool) -> None:
        """Build it; `second`: whether dilated layers add a second correction."""
        super().__init__()
        self.dense = Dense(n_in)
        self.flow = nn.Conv2d(self.dense.n_out, 2, 3, padding=1)
        self.context = wide_context(self.dense.n_out) if second else None

    def forward(
        self, correlation: Tensor, flow: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(B,n,h,w), (B,2,h,w), (B,2,h,w) or None -> flow (B,2,h,w), features."""
        seen = [correlation, flow] if context is None else [correlation, flow, context]
        features = self.dense(torch.cat(seen, 1))
        refined = flow + self.flow(features)
        if self.context is not None:
            refined = refined + self.context(features)
        return refined, features


class MapHead(nn.Module):
    """Mutual matches -> flow via an absolute map in normalised coordinates."""

    def __init__(self, n_matches: int, low_size: int) -> None:
        """Build it; its input also has two channels of zeros, as published."""
        super().__init__()
        self.layers = plain(n_matches + 2, 2)
        self.low_size = low_size

    def forward(self, matches: Tensor) -> Tensor:
        """(B,n,h,w) -> flow (B,2,h,w) in pixels of the low image."""
        height, width = matches.shape[-2:]
        zeros = matches.new_zeros(len(matches), 2, height, width)
        flow = map_to_flow(self.layers(torch.cat([matches, zeros], 1)))
        return convert_unit(flow, (height, width), (self.low_size, self.low_size))


class LearnedUp(nn.Module):
    """Transposed convolution to a grid twice as fine."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(n_in, n_out, 4, 2, 1)

    def forward(self, x: Tensor, shape_hw: ShapeHW) -> Tensor:
        """(B,n_in,h,w) -> (B,n_out,2h,2w); `shape_hw` must equal the latter."""
        return self.conv(x, output_size=shape_hw)  # type: ignore[no-any-return]


def simsac_decoder(n_classes: int, low_size: int) -> SceneDecoder:
    """The flow and change heads with new weights."""
    matches, shifts = (low_size // 16) ** 2, (2 * RADIUS + 1) ** 2
    _, c_4, c_8, c_16 = VGG_WIDTHS
    level_2 = DenseFlowHead(shifts + 2, second=False)
    decoder = SceneDecoder(
        start=MapHead(matches, low_size),
        flow_heads=[
            DenseFlowHead(shifts + 2, second=True),
            level_2,
            DenseFlowHead(shifts + 4, second=True),
        ],
        change_heads=[
            plain(2 * c_16 + matches, n_classes),
            plain(2 * c_8 + shifts, n_classes),
            plain(2 * c_8 + shifts, n_classes),
            plain(2 * c_4 + shifts, n_classes),
        ],
        flow_ups=[LearnedUp(2, 2), LearnedUp(2, 2)],
        change_ups=[LearnedUp(n_classes, n_classes), LearnedUp(n_classes, n_classes)],
        context_up=LearnedUp(level_2.dense.n_out, 2),
        low_size=low_size,
        radius=RADIUS,
    )
    _initialize(decoder)
    return decoder


def _initialize(module: nn.Module) -> None:
    """Kaiming-normal convolutions (fan in) without bias."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def simsac(
    n_bands: int = 3,
    weights: str | None = None,
    n_classes: int = 1,
    low_size: int = 256,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> SceneNetwork:
    """SimSaC; 18 153 214 parameters with three bands and one class.

    The count usually given, 18 153 248, includes 34 of two upsamplers whose output is never used.

    Args:
        n_bands: bands per date.
        weights: ``imagenet`` for the VGG-16 pyramid; a file of torchvision's VGG-16; a checkpoint
            or file of a trained SimSaC; None: random.
        n_classes: 1, or 2: no change and change.
        low_size: side of the low image, a multiple of 16; published 256.
        mean: per band; default ImageNet's, of 8-bit values.
        std: per band; default likewise.

    Raises:
        ModelError: for weights that cannot be obtained or do not fit.
    """
    check_scene_arguments(low_size, weights, "imagenet")
    whole = is_scene_file(weights) and holds_decoder(str(weights))
    network = SceneNetwork(
        normalize=normalize_layer(n_bands, mean, std, imagenet_statistics(n_bands)),
        encoder=VggPyramid(n_bands, None if whole else weights),
        decoder=simsac_decoder(n_classes, low_size),
        n_bands=n_bands,
    )
    if whole:
        load_scene_weights(network, str(weights))
    return network
