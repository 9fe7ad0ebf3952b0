"""Frozen encoders of timm: one image in, maps of several depths out, nothing is trained."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rscd.base.arguments import close_to
from rscd.base.border import border, reason
from rscd.base.errors import ModelError
from rscd.models.downloads import downloading, load_tensors_into, read_tensors
from rscd.models.lite_encoder import DEVIATION, IMAGENET, MEAN, lite_encoder
from rscd.models.normalize import Normalize

N_BANDS = 3
FINEST, COARSEST = 4, 16
"""Strides of the maps in use: finer ones show texture, coarser ones whole scenes."""
LITE = "efficientnet-lite0"
"""Name of the default encoder with weights of a file."""
DEPTHS = 3
"""Maps of an encoder that keeps one stride, evenly spaced among its blocks."""


class FrozenEncoder(nn.Module):
    """Raw 8-bit values (B,3,H,W) -> maps (B,K,H/stride,W/stride), shallow to deep."""

    def __init__(
        self, name: str, encoder: nn.Module, normalize: Normalize, levels: "Levels", side: int
    ) -> None:
        """Freeze an encoder.

        Args:
            name: with the tag of its weights.
            encoder: normalised images -> list of maps.
            normalize: as its weights expect.
            levels: its maps that are used.
            side: of the images it was trained with, in pixels.
        """
        super().__init__()
        self.name, self.strides, self.side = name, levels.strides, side
        self.normalize, self.encoder = normalize, encoder
        self.first, self.channels_last = levels.first, levels.channels_last
        self.multiple = max(levels.strides)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Height and width are multiples of ``multiple``."""
        maps = self.encoder(self.normalize(image))[self.first :]
        return [level.permute(0, 3, 1, 2) if self.channels_last else level for level in maps]


@dataclass(frozen=True)
class Levels:
    """The maps of an encoder that are used."""

    strides: tuple[int, ...]
    outputs: tuple[int, ...]
    """Their numbers among all maps of timm."""
    first: int = 0
    """Position of the first of them in the encoder's output."""
    channels_last: bool = False


def frozen_encoder(name: str | None = None, file: str | None = None) -> FrozenEncoder:
    """An encoder with pretrained weights.

    Args:
        name: of timm, with or without the tag of its weights (``resnet50``,
            ``vit_small_patch14_dinov2.lvd142m``); None: ImageNet's EfficientNet-Lite0, which needs
            no download.
        file: local file of its tensors by timm's names (.safetensors, .pth), instead of a download
            or of ImageNet's.

    Raises:
        ModelError: for an unknown name, one without maps, or weights that cannot be obtained.
    """
    if name is None:
        normalize = Normalize((MEAN,) * N_BANDS, (DEVIATION,) * N_BANDS)
        levels = Levels((4, 8, 16), (1, 2, 3), first=1)
        encoder = lite_encoder(N_BANDS, IMAGENET if file is None else None)
        if file is not None:
            _load_file(encoder, file)
        own = IMAGENET if file is None else LITE
        return FrozenEncoder(own, encoder, normalize, levels, side=224)
    import timm

    if not timm.is_model(name.partition(".")[0]):
        close = close_to(name, timm.list_models()) or "; correct the name"
        raise ModelError(f"expected an encoder of timm, found {name!r}{close}")
    pretrained = file is None
    with border(partial(_unusable, name)):
        levels, options = _levels(name)
        with downloading(f"of {name}", "the model hub huggingface.co", f"name a file, {name}@FILE"):
            made: Any = timm.create_model(
                name,
                pretrained=pretrained,
                features_only=True,
                out_indices=levels.outputs,
                **options,
            )
    config = made.pretrained_cfg
    if file is not None:
        _load_file(made, file)
    normalize = Normalize(*([255 * value for value in config[key]] for key in ("mean", "std")))
    side = int(config["input_size"][-1])
    tag = config.get("tag") if pretrained else None
    full = f"{name}.{tag}" if tag and "." not in name else name
    return FrozenEncoder(full, made, normalize, levels, side)


def _levels(name: str) -> tuple[Levels, dict[str, Any]]:
    """The maps to use, and what timm must be told so that images of any size are taken."""
    import timm

    with torch.device("meta"):
        whole: Any = timm.create_model(name, features_only=True)
    strides = [int(info["reduction"]) for info in whole.feature_info.info]
    last = str(getattr(whole, "output_fmt", "")).endswith("NHWC")
    if len(set(strides)) == 1:
        count = len(strides)
        outputs = tuple(count * (part + 1) // DEPTHS - 1 for part in range(min(DEPTHS, count)))
        return Levels((strides[0],) * len(outputs), outputs, 0, last), {"dynamic_img_size": True}
    outputs = tuple(i for i, stride in enumerate(strides) if FINEST <= stride <= COARSEST)
    return Levels(tuple(strides[i] for i in outputs), outputs, 0, last), {}


def _load_file(encoder: nn.Module, file: str) -> None:
    """Load tensors by timm's names, which differ from the encoder's in prefix and dots."""
    found = {_plain(key): value for key, value in read_tensors(Path(file)).items()}
    own = {key: found[_plain(key)] for key in encoder.state_dict() if _plain(key) in found}
    load_tensors_into(encoder, own, file)


def _plain(key: str) -> str:
    return key.removeprefix("model.").replace(".", "_")


def _unusable(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"expected an encoder of timm with maps for images of any size, found {name}: "
        f"{reason(error)[:160]}; take another, such as resnet50"
    )
