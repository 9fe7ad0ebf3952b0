"""TorchGeo's change detection networks and pretrained encoders; other networks do not need it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rscd.base.errors import ModelError
from rscd.models.downloads import downloading, is_file, load_file_into, load_tensors_into
from rscd.models.inputs import check_image, normalize_layer
from rscd.models.smp_encoders import check_smp_names, drop_unused
from rscd.models.statistics import Statistics, imagenet_statistics, raw_statistics

RESNETS = ("resnet18", "resnet50", "resnet152")
SWINS = ("swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_b")
SWIN_LEVELS = ("features.1", "features.3", "features.5", "features.7")
"""Outputs of the four stages, before each reduction: strides 4, 8, 16, 32."""

BTC_BACKBONES = {"swin_tiny": "swin_t", "swin_small": "swin_s", "swin_base": "swin_b"}
"""BTC's name -> TorchGeo's."""

BTC_RANGE = 255.0
"""BTC itself normalises values in 0..1; raw 8-bit values are divided by this first."""


class Pyramid(nn.Module):
    """A TorchGeo backbone as encoder: the image, then one map per stride 2, 4, ... ."""

    def __init__(self, module: nn.Module, channels: Sequence[int], *, swin: bool) -> None:
        """Wrap a module that returns a list (timm) or a dict of channels-last maps (swin)."""
        super().__init__()
        self.model = module
        self.channels = tuple(channels)
        self.swin = swin

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B,C,H,W) -> maps of `channels`."""
        found = self.model(image)
        if not self.swin:
            return [image, *found]
        # the transformer starts at stride 4: an empty map keeps level k at stride 2**k
        half = image.new_empty(len(image), 0, image.shape[2] // 2, image.shape[3] // 2)
        return [image, half, *(level.permute(0, 3, 1, 2) for level in found.values())]


def torchgeo_weights(name: str, encoder: str) -> Any:
    """A member of TorchGeo's weight enums.

    Args:
        name: ``ResNet50_Weights.SENTINEL2_ALL_MOCO`` or only the part after the dot.
        encoder: TorchGeo's name of the model.

    Raises:
        ModelError: for an unknown name; the message lists the known ones.
    """
    from torchgeo.models import get_model_weights

    members = {member.name: member for member in get_model_weights(encoder)}
    short = name.rpartition(".")[2]
    if short not in members:
        raise ModelError(
            f"expected weights of {encoder} among {', '.join(members)}, found {name!r}"
        )
    return members[short]


def weight_statistics(weights: Any) -> Statistics:
    """Mean and standard deviation per band of raw values, from a weight enum's normalisations."""
    from torchvision.transforms.v2 import Normalize

    n_bands = int(weights.meta["in_chans"])
    offset, scale = torch.zeros(n_bands), torch.ones(n_bands)
    for step in weights.transforms.modules():
        if isinstance(step, Normalize):
            mean, std = torch.tensor(step.mean), torch.tensor(step.std)
            offset, scale = offset + mean * scale, scale * std
    return tuple(offset.tolist()), tuple(scale.tolist())


def torchgeo_encoder(
    name: str, n_bands: int, weights: str | None, output_stride: int
) -> tuple[Pyramid, Statistics]:
    """A backbone of TorchGeo, with its pretrained weights.

    Args:
        name: one of `RESNETS` or `SWINS`.
        n_bands: bands per date; with `weights`, the number they were trained with.
        weights: see `torchgeo_weights`; None: random.
        output_stride: 32, or 16 or 8 for a dilated ResNet.

    Raises:
        ModelError: for unknown names, other bands than those of the weights, or a failed download.
    """
    from torchgeo.models import get_model

    if name not in (*RESNETS, *SWINS):
        raise ModelError(
            f"expected an encoder among {', '.join((*RESNETS, *SWINS))} after 'tg-', found "
            f"{name!r}; no decoder here takes TorchGeo's transformers without a pyramid"
        )
    found = None if weights is None else torchgeo_weights(weights, name)
    if found is not None and found.meta["in_chans"] != n_bands:
        bands = ", ".join(map(str, found.meta.get("bands", ())))
        raise ModelError(
            f"expected {found.meta['in_chans']} bands ({bands}) for weights {found}, found "
            f"{n_bands}; choose the bands in that order, other weights, or weights: null"
        )
    if name in RESNETS:
        module: Any = get_model(
            name, in_chans=n_bands, features_only=True, output_stride=output_stride
        )
        channels = [n_bands, *module.feature_info.channels()]
    else:
        module = _swin(get_model(name), n_bands)
        width = module.get_submodule("features.0.0").out_channels
        channels = [n_bands, 0, *(width * 2**level for level in range(4))]
    if found is None:
        return Pyramid(module, channels, swin=name in SWINS), raw_statistics(n_bands)
    with downloading(str(found), found.url):
        tensors = found.get_state_dict(progress=False, weights_only=True)
    load_tensors_into(module, tensors, str(found))
    return Pyramid(module, channels, swin=name in SWINS), weight_statistics(found)


def _swin(model: nn.Module, n_bands: int) -> nn.Module:
    from torchvision.models.feature_extraction import create_feature_extractor

    old: Any = model.get_submodule("features.0.0")
    if n_bands != old.in_channels:
        stem = nn.Conv2d(n_bands, old.out_channels, old.kernel_size, old.stride)
        model.get_submodule("features.0").register_module("0", stem)
    module: nn.Module = create_feature_extractor(model, return_nodes=list(SWIN_LEVELS))
    return module


class TorchGeoNetwork(nn.Module):
    """Adapter from one of TorchGeo's networks to our input and output."""

    def __init__(
        self, normalize: nn.Module, network: nn.Module, n_bands: int, multiple: int
    ) -> None:
        """Wrap a network that takes (B,2,C,H,W)."""
        super().__init__()
        self.n_bands = n_bands
        self.multiple = multiple
        self.normalize = normalize
        self.network = network

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B,2,C,H,W) raw -> ``logits`` (B,K,H,W)."""
        check_image(image, self.n_bands, self.multiple)
        return {"logits": self.network(self.normalize(image))}


class StackedDates(nn.Module):
    """BTC's input: three bands per date, dates stacked along channels.

    For other counts a 1x1 convolution maps the bands to three first, the only change to BTC.
    """

    def __init__(self, network: nn.Module, n_bands: int) -> None:
        super().__init__()
        self.bands: nn.Module = nn.Identity() if n_bands == 3 else nn.Conv2d(n_bands, 3, 1)
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """(B,2,C,H,W) in 0..1 -> (B,K,H,W)."""
        rgb = self.bands(image.flatten(0, 1)).unflatten(0, (-1, 2))
        logits: Tensor = self.network(rgb.flatten(1, 2))
        return logits


def _fc_siam(kind: str) -> Callable[..., TorchGeoNetwork]:
    def build(
        n_bands: int = 3,
        encoder: str = "resnet34",
        weights: str | None = None,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        n_classes: int = 1,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> TorchGeoNetwork:
        """TorchGeo's FC-Siam-diff or FC-Siam-conc (https://doi.org/10.1109/ICIP.2018.8451652).

        Args:
            n_bands: bands per date.
            encoder: name in segmentation-models-pytorch.
            weights: of the encoder: name there, path of a local file, or None: random.
            decoder_channels: from the deepest level to full resolution.
            n_classes: 1 or 2.
            mean: per band; default of the weights.
            std: per band; default of the weights.
        """
        from torchgeo import models

        depth = len(decoder_channels)
        file = is_file(weights)
        check_smp_names(encoder, None if file else weights)
        with downloading(f"{weights} of {encoder}", "the model hub of segmentation-models-pytorch"):
            network = getattr(models, kind)(
                encoder_name=encoder,
                encoder_depth=depth,
                encoder_weights=None if file else weights,
                decoder_channels=list(decoder_channels),
                in_channels=n_bands,
                classes=n_classes,
            )
        drop_unused(encoder, network.encoder, n_bands)
        if file:
            load_file_into(network.encoder, str(weights))
        default = imagenet_statistics(n_bands) if weights == "imagenet" else raw_statistics(n_bands)
        normalize = normalize_layer(n_bands, mean, std, default)
        return TorchGeoNetwork(normalize, network, n_bands, multiple=2**depth)

    return build


fc_siam_diff = _fc_siam("FCSiamDiff")
fc_siam_conc = _fc_siam("FCSiamConc")


def change_vit(
    n_bands: int = 3,
    backbone: str = "vit_tiny_patch16_224",
    img_size: int = 256,
    weights: str | None = None,
    n_classes: int = 1,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> TorchGeoNetwork:
    """TorchGeo's ChangeViT (https://arxiv.org/abs/2406.12847); attention: not local.

    Args:
        n_bands: bands per date.
        backbone: a vision transformer of timm.
        img_size: size the position embedding is made for; others are interpolated.
        weights: ``imagenet`` takes timm's for transformer and detail branch; None: random.
        n_classes: 1 or 2.
        mean: per band; default of the weights.
        std: per band; default of the weights.
    """
    from timm import is_model
    from torchgeo.models import ChangeViT

    if not is_model(backbone.partition(".")[0]) or weights not in (None, "imagenet"):
        raise ModelError(
            f"expected a vision transformer of timm and weights imagenet or null, found "
            f"{backbone!r} and {weights!r}"
        )
    with downloading(f"{weights} of {backbone}", "timm's model hub"):
        network = ChangeViT(
            backbone,
            img_size=img_size,
            in_channels=n_bands,
            num_classes=n_classes,
            pretrained=weights is not None,
        )
    default = raw_statistics(n_bands) if weights is None else imagenet_statistics(n_bands)
    normalize = normalize_layer(n_bands, mean, std, default)
    multiple = int(network.encoder.patch_embed.patch_size[0])
    return TorchGeoNetwork(normalize, network, n_bands, multiple)


def btc(
    n_bands: int = 3,
    backbone: str = "swin_tiny",
    weights: str | None = None,
    n_classes: int = 1,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> TorchGeoNetwork:
    """TorchGeo's BTC (https://arxiv.org/abs/2507.03367); pooled pyramid: not local.

    Its pooled branch has batch norm at 1x1: training needs at least two pairs per batch.

    Args:
        n_bands: bands per date.
        backbone: one of `BTC_BACKBONES`.
        weights: ``cityscapes`` or None: random.
        n_classes: 1 or 2.
        mean: per band, default 0; BTC itself normalises by ImageNet's statistics after this.
        std: per band, default 255.
    """
    from torchgeo.models import BTC

    if backbone not in BTC_BACKBONES or weights not in (None, "cityscapes"):
        raise ModelError(
            f"expected a backbone among {', '.join(BTC_BACKBONES)} and weights cityscapes or null, "
            f"found {backbone!r} and {weights!r}"
        )
    network = BTC(backbone, backbone_pretrained=False, classes=n_classes)
    if weights is not None:
        _load_cityscapes(network.encoder, backbone)
    default = (0.0,) * n_bands, (BTC_RANGE,) * n_bands
    normalize = normalize_layer(n_bands, mean, std, default)
    return TorchGeoNetwork(normalize, StackedDates(network, n_bands), n_bands, multiple=32)


def _load_cityscapes(encoder: Any, backbone: str) -> None:
    found = torchgeo_weights("CITYSCAPES_SEMSEG", BTC_BACKBONES[backbone])
    with downloading(str(found), found.url):
        tensors = found.get_state_dict(include_norms=True, progress=False, weights_only=True)
    load_tensors_into(encoder.feature_extractor, tensors["state_dict"], str(found))
    encoder.norms.load_state_dict(tensors["feat_norms_state_dict"])
