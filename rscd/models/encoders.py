"""Encoders by name, with or without pretrained weights.

    resnet18, mobilenet_v2, ...  of segmentation-models-pytorch; weights e.g. ``imagenet``
    tu-NAME                      of timm; weights ``imagenet``: the default tag of NAME
    tg-NAME                      of TorchGeo (``tg-resnet50``, ``tg-swin_v2_b``); weights are its
                                 names, e.g. ``SENTINEL2_ALL_MOCO``, also multispectral ones
    resnet50-s16                 torchvision's ResNet-50 with output stride 16 and no dilation
    lite0                        EfficientNet-Lite0 without the stages of stride 32; its weights
                                 ``efficientnet-lite0-imagenet`` come with rscd[imagenet] instead of
                                 a download

Each also accepts the path of a local file of tensors as `weights`, also of a whole network with
that encoder (``rscd/weights/buildings.safetensors`` for ``lite0``); None means random weights.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from rscd.base.errors import ModelError
from rscd.models.downloads import downloading, is_file, load_file_into
from rscd.models.lite_encoder import DEVIATION, ENCODER_WIDTHS, MEAN, lite_encoder
from rscd.models.smp_encoders import LITE, STRIDE_16, check_smp_names, drop_unused
from rscd.models.statistics import Statistics, imagenet_statistics, raw_statistics


@dataclass(frozen=True)
class Backbone:
    """An encoder and its properties."""

    module: nn.Module
    """(B,C,H,W) -> list of maps; number k has stride 2**k, at most the output stride."""
    channels: tuple[int, ...]
    """Channels per map; map 0 is the image. 0 if a transformer has no map of that stride."""
    multiple: int
    """Image sizes should be multiples of this: the output stride."""
    any_size: bool
    """Whether other sizes work as well."""
    statistics: Statistics
    """Mean and standard deviation per band that its weights expect."""


def build_encoder(
    name: str, *, n_bands: int, weights: str | None = None, depth: int = 5, output_stride: int = 32
) -> Backbone:
    """Build an encoder by name.

    Args:
        name: see the module docstring.
        n_bands: bands of an image.
        weights: pretrained weights by name, a local file, or None: random.
        depth: number of maps besides the image.
        output_stride: 32; 16 or 8 dilate the last stages instead, where the architecture can.

    Raises:
        ModelError: for unknown names, weights that do not fit, or a failed download.
    """
    published = None if is_file(weights) else weights
    if name == STRIDE_16:
        backbone = _resnet50_s16(n_bands, published)
    elif name == LITE:
        backbone = _lite(n_bands, published, depth, output_stride)
    elif name.startswith("tg-"):
        backbone = _torchgeo(name.removeprefix("tg-"), n_bands, published, depth, output_stride)
    else:
        backbone = _smp(name, n_bands, published, depth, output_stride)
    if is_file(weights):
        load_file_into(backbone.module, str(weights))
    return backbone


def _smp(name: str, n_bands: int, weights: str | None, depth: int, output_stride: int) -> Backbone:
    from segmentation_models_pytorch.encoders import get_encoder

    check_smp_names(name, weights)
    with (
        warnings.catch_warnings(),
        downloading(f"{weights} of {name}", "the model hub huggingface.co"),
    ):
        # timm logs the weights of stages that `features_only` does not use
        warnings.simplefilter("ignore", UserWarning)
        module = get_encoder(
            name,
            in_channels=n_bands,
            depth=depth,
            weights=bool(weights) or None if name.startswith("tu-") else weights,
            output_stride=output_stride,
        )
    drop_unused(name, module, n_bands)
    return Backbone(
        module,
        tuple(module.out_channels),
        min(2**depth, output_stride),
        any_size=False,
        statistics=raw_statistics(n_bands) if weights is None else imagenet_statistics(n_bands),
    )


def _torchgeo(
    name: str, n_bands: int, weights: str | None, depth: int, output_stride: int
) -> Backbone:
    from rscd.models.torchgeo_nets import torchgeo_encoder  # a second to import

    if depth != 5:
        raise ModelError(f"expected depth 5 for TorchGeo's encoders, found {depth}")
    module, statistics = torchgeo_encoder(name, n_bands, weights, output_stride)
    return Backbone(module, module.channels, output_stride, any_size=False, statistics=statistics)


def _lite(n_bands: int, weights: str | None, depth: int, output_stride: int) -> Backbone:
    if output_stride < 16:
        raise ModelError(f"expected output_stride 16 or 32 for {LITE}, found {output_stride}")
    depth = min(depth, len(ENCODER_WIDTHS))
    scaled = (MEAN,) * n_bands, (DEVIATION,) * n_bands
    return Backbone(
        WithImage(lite_encoder(n_bands, weights, depth)),
        (n_bands, *ENCODER_WIDTHS[:depth]),
        2**depth,
        any_size=False,
        statistics=raw_statistics(n_bands) if weights is None else scaled,
    )


class WithImage(nn.Module):
    """An encoder of timm whose first map is the image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B,C,H,W) -> the image and the maps of strides 2, 4, ..."""
        return [image, *self.model(image)]


def _resnet50_s16(n_bands: int, weights: str | None) -> Backbone:
    if weights not in (None, "imagenet"):
        raise ModelError(f"expected weights imagenet, a local file or null, found {weights!r}")
    module = ResNet50Stride16(n_bands, pretrained=weights is not None)
    return Backbone(
        module,
        module.channels,
        16,
        any_size=True,
        statistics=raw_statistics(n_bands) if weights is None else imagenet_statistics(n_bands),
    )


class ResNet50Stride16(nn.Module):
    """KD-MSI's encoder (section 2.1): layer4 keeps stride 16 by stride 1, not by dilation.

    A dilated ResNet is a different function. Tensors have torchvision's names. Feature sizes are
    ceil(n / 16), any n.
    """

    def __init__(self, n_bands: int = 3, *, pretrained: bool = False) -> None:
        """Build it; pretrained: torchvision's ``IMAGENET1K_V1``.

        A first convolution for other counts than three bands starts as the mean over the
        pretrained bands, scaled by 3 / `n_bands`.

        Raises:
            ModelError: if the weights cannot be obtained.
        """
        super().__init__()
        from torchvision.models import ResNet50_Weights, resnet50

        net = resnet50(weights=None)
        if pretrained:
            found = ResNet50_Weights.IMAGENET1K_V1
            with downloading(str(found), found.url):
                tensors = found.get_state_dict(progress=False, check_hash=True, weights_only=True)
            net.load_state_dict(tensors)
        net.layer4[0].conv2.stride = (1, 1)
        net.layer4[0].downsample[0].stride = (1, 1)
        self.conv1 = net.conv1 if n_bands == 3 else _stem(net.conv1, n_bands, pretrained)
        self.bn1, self.relu, self.maxpool = net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2 = net.layer1, net.layer2
        self.layer3, self.layer4 = net.layer3, net.layer4
        self.channels = (n_bands, 64, 256, 512, 1024, 2048)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B,C,H,W) -> maps of strides 1, 2, 4, 8, 16, 16."""
        stem = self.relu(self.bn1(self.conv1(image)))
        levels = [image, stem, self.layer1(self.maxpool(stem))]
        for layer in (self.layer2, self.layer3, self.layer4):
            levels.append(layer(levels[-1]))
        return levels


def _stem(conv: nn.Conv2d, n_bands: int, pretrained: bool) -> nn.Conv2d:
    stem = nn.Conv2d(n_bands, conv.out_channels, 7, stride=2, padding=3, bias=False)
    if pretrained:
        mean = conv.weight.detach().mean(1, keepdim=True)
        stem.weight = nn.Parameter(mean.repeat(1, n_bands, 1, 1) * 3 / n_bands)
    else:
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    return stem


def hold_statistics(encoder: nn.Module) -> None:
    """Make batch norms use their stored statistics; weight and bias are still trained."""
    for module in encoder.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def encode_dates(
    encoder: nn.Module, image: Tensor, order: str
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """The maps of t1 and of t2.

    In eval mode all orders give the same result, and the joint one is used.

    Args:
        encoder: (B,C,H,W) -> list of maps.
        image: (B,2,C,H,W) normalised.
        order: ``joint`` (both dates in one batch), ``t1-first`` or ``t2-first``: one after the
            other, so that batch norm sees one date at a time.
    """
    if order == "joint" or not encoder.training:
        pairs = [level.unflatten(0, (-1, 2)) for level in encoder(image.flatten(0, 1))]
        return [pair[:, 0] for pair in pairs], [pair[:, 1] for pair in pairs]
    if order == "t2-first":
        t2 = encoder(image[:, 1])
        return encoder(image[:, 0]), t2
    t1 = encoder(image[:, 0])
    return t1, encoder(image[:, 1])
