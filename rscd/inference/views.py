"""Multi-scale inference and test-time augmentation of a network, as a model of the engine.

Only local operations can be tiled: multi-scale sigmoid inference and test-time augmentation are
local; the activation maps of KD-MSI are not, because they are divided by a maximum over the scene.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from rscd.base.errors import ModelError, UsageError
from rscd.base.types import BoolArray, FloatArray, Provenance
from rscd.geo.tiles import round_up
from rscd.inference.network import Network
from rscd.inference.predictor import Block, Expected, Model, Tiling
from rscd.methods.parts.multiscale import FLIPS, MAPS, PRESETS, Views, msi, tta_logits
from rscd.models.logits import change_logit

Kind = Literal["msi", "tta"]

KERNEL_PX = 2
"""Support of the bicubic filter, in pixels of the coarser image."""


@dataclass(frozen=True)
class MultiScale:
    """A network evaluated on several views, as `Model` and `Predictor`."""

    network: Network
    kind: Kind
    """``msi``: mean of sigmoids (KD-MSI notes, section 4.1); ``tta``: sigmoid of the mean logit,
    which exceeds one half exactly where the argmax of the summed logits is change (section 5)."""
    views: Views

    @property
    def name(self) -> str:
        """Name of the network; the card describes the views."""
        return self.network.name

    @property
    def summary(self) -> str:
        """One line describing network and views."""
        scales = ", ".join(f"{scale:g}" for scale in self.views.scales)
        return f"{self.network.summary}, {self.kind} at scales {scales}"

    @property
    def threshold(self) -> float:
        """The network's threshold."""
        return self.network.threshold

    @property
    def n_bands(self) -> int:
        """Bands per date."""
        return self.network.n_bands

    @property
    def tiling(self) -> Tiling:
        """The network's tiling, with the halo of the smallest scale and the cost of the largest."""
        own, views = self.network.tiling, self.views
        smallest, largest = min(1.0, *views.scales), max(1.0, *views.scales)
        halo = round_up(math.ceil((own.halo + KERNEL_PX) / smallest), views.grid)
        # besides the largest view: all its flips as inputs, and three maps at full size
        inputs = 2 * self.network.n_bands * 4 * (1 + len(FLIPS[views.flip]))
        return replace(
            own,
            halo=halo,
            multiple=views.grid,
            tile_size=round_up(max(own.tile_size, 2 * halo), views.grid),
            bytes_per_pixel=math.ceil((own.bytes_per_pixel + inputs) * largest**2) + 12,
        )

    def card(self) -> Provenance:
        """The network's card, and the views."""
        views = {
            "kind": self.kind,
            "scales": list(self.views.scales),
            "flip": self.views.flip,
            "eight_bit": self.views.eight_bit,
        }
        return self.network.card() | {"views": views}

    def expects(self, n_bands: int) -> Expected | None:
        """What the network expects."""
        return self.network.expects(n_bands)

    def fit(self, blocks: Iterable[Block], n_pixels: int) -> "MultiScale":
        """Return the model itself: it needs no statistics, so no pass over the scene."""
        return self

    def __call__(self, image: FloatArray, valid: BoolArray) -> FloatArray:
        """Predict change; see ``Predictor``.

        Raises:
            ModelError: if the image has other bands than the network.
        """
        height, width = valid.shape[-2:]
        # as many pixels at once as for the network alone
        views = replace(self.views, max_pixels=len(image) * height * width)
        with torch.inference_mode():
            pairs = torch.from_numpy(image)
            if self.kind == "msi":
                found = msi(self.label_map, pairs, views)
            else:
                summed = change_logit(tta_logits(self.logits, pairs, views))
                found = (summed / (len(views.scales) * len(FLIPS[views.flip]))).sigmoid()
        prob: FloatArray = found[:, 0].numpy()
        return prob

    def logits(self, image: Tensor) -> Tensor:
        """(B,2,C,h,w) -> (B,K,h,w) at the image's size."""
        return self.network.outputs(image)["logits"].float().to(image.device)

    def label_map(self, image: Tensor) -> Tensor:
        """(B,2,C,h,w) -> (B,1,h',w'): the map before resizing, if the network has one."""
        found = self.network.outputs(image)
        logits = found["cam"] if "cam" in found else change_logit(found["logits"])
        return logits.float().to(image.device)


@dataclass(frozen=True)
class ImageMaps:
    """Maps of whole images by one of `rscd.methods.parts.multiscale.MAPS`, for pseudo masks."""

    network: Network
    kind: str
    views: Views

    def __call__(self, image: FloatArray) -> FloatArray:
        """(2,C,H,W) float32 raw values -> (H,W) float32 in [0,1]."""
        source = MultiScale(self.network, "msi", self.views)
        with torch.inference_mode():
            found = MAPS[self.kind](source.label_map, torch.from_numpy(image)[None], self.views)
        change_map: FloatArray = found[0, 0].numpy()
        return change_map


def multi_scale(
    model: Model, *, msi: str | None, tta: str | None, eight_bit: bool, flip: str = "width"
) -> Model:
    """Wrap a model for the views requested on the command line; without any, return it unchanged.

    Args:
        model: any.
        msi: scales for multi-scale sigmoid inference, see `parse_scales`.
        tta: scales for test-time augmentation.
        eight_bit: whether both dates hold 8-bit values.
        flip: one of `rscd.methods.parts.multiscale.FLIPS`.

    Raises:
        UsageError: for both at once, or invalid scales.
        ModelError: for a model that is not a network.
    """
    if msi is None and tta is None:
        return model
    if msi is not None and tta is not None:
        raise UsageError("expected one of --msi and --tta, found both; drop one")
    if not isinstance(model, Network):
        raise ModelError(
            f"expected a trained network for --msi and --tta, found {model.name}; give -m "
            "FILE.safetensors or FILE.ckpt"
        )
    kind: Kind = "tta" if msi is None else "msi"
    scales = parse_scales(msi or tta or "")
    views = Views(scales, flip=flip, eight_bit=eight_bit, multiple=model.tiling.multiple)
    return MultiScale(model, kind, views)


def parse_scales(text: str) -> tuple[float, ...]:
    """``"0.5,1,2"``, or a name of `rscd.methods.parts.multiscale.PRESETS`.

    Raises:
        UsageError: for anything else; scales lie from 0.125 to 8.
    """
    if text in PRESETS:
        return PRESETS[text]
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0.125 <= scale <= 8 for scale in scales):
        raise UsageError(
            f"expected scales from 0.125 to 8 such as 0.5,1,2, or one of {', '.join(PRESETS)}, "
            f"found {text!r}"
        )
    return scales
