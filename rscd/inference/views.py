"""A network looked through at several scales and flips, as a model of the engine.

Only what is local can be streamed: multiscale sigmoid inference and test-time augmentation are, the
activation maps of KD-MSI are divided by a maximum over the scene and are not.
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
from rscd.inference.predictor import Block, Model, Tiling
from rscd.methods.parts.multiscale import FLIPS, MAPS, PRESETS, Views, msi, tta_logits
from rscd.models.logits import change_logit

Kind = Literal["msi", "tta"]

KERNEL_PX = 2
"""Reach of the bicubic filter, in pixels of the coarser of both images."""


@dataclass(frozen=True)
class MultiScale:
    """A network and the views it is given, as `Model` and `Predictor`."""

    network: Network
    kind: Kind
    """``msi``: mean of sigmoids (KD-MSI notes, section 4.1); ``tta``: sigmoid of the mean of logits,
    whose side of one half is the side of the argmax of their sum (section 5)."""
    views: Views

    @property
    def name(self) -> str:
        """As the network is called; the card tells the views."""
        return self.network.name

    @property
    def summary(self) -> str:
        """One line."""
        scales = ", ".join(f"{scale:g}" for scale in self.views.scales)
        return f"{self.network.summary}, {self.kind} at scales {scales}"

    @property
    def threshold(self) -> float:
        """The network's own."""
        return self.network.threshold

    @property
    def tiling(self) -> Tiling:
        """The network's, for what the smallest scale sees and the largest one costs."""
        own, views = self.network.tiling, self.views
        smallest, largest = min(1.0, *views.scales), max(1.0, *views.scales)
        halo = round_up(math.ceil((own.halo + KERNEL_PX) / smallest), views.grid)
        # beside the largest view: all flips of it as inputs, and three maps at full size
        inputs = 2 * self.network.n_bands * 4 * (1 + len(FLIPS[views.flip]))
        return replace(
            own,
            halo=halo,
            multiple=views.grid,
            tile_size=round_up(max(own.tile_size, 2 * halo), views.grid),
            bytes_per_pixel=math.ceil((own.bytes_per_pixel + inputs) * largest**2) + 12,
        )

    def card(self) -> Provenance:
        """The network's, and the views."""
        views = {
            "kind": self.kind,
            "scales": list(self.views.scales),
            "flip": self.views.flip,
            "eight_bit": self.views.eight_bit,
        }
        return self.network.card() | {"views": views}

    def fit(self, blocks: Iterable[Block], n_pixels: int) -> "MultiScale":
        """Nothing to learn from the scene: no pass over it."""
        return self

    def __call__(self, image: FloatArray, valid: BoolArray) -> FloatArray:
        """Predict change; see ``Predictor``.

        Raises:
            ModelError: when the image has other bands than the network.
        """
        height, width = valid.shape[-2:]
        # as many pixels at once as the network alone would be given
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
        """(B,2,C,h,w) -> (B,1,h',w'): the map before its resize, where the network has one."""
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
    """A model with the views asked for on the command line; the model itself where there are none.

    Args:
        model: any.
        msi: scales for multiscale sigmoid inference, see `parse_scales`.
        tta: scales for test-time augmentation.
        eight_bit: whether both dates hold 8-bit values.
        flip: one of `rscd.methods.parts.multiscale.FLIPS`.

    Raises:
        UsageError: for both at once, or scales that are none.
        ModelError: for a model that is no network.
    """
    if msi is None and tta is None:
        return model
    if msi is not None and tta is not None:
        raise UsageError("expected one of --msi and --tta, found both; drop one")
    if not isinstance(model, Network):
        raise ModelError(
            f"expected a trained network for --msi and --tta, found {model.name}; give -m FILE"
        )
    kind: Kind = "tta" if msi is None else "msi"
    views = Views(
        parse_scales(msi or tta or ""),
        flip=flip,
        eight_bit=eight_bit,
        multiple=model.tiling.multiple,
    )
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
