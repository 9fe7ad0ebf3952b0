"""Adapts a network to a scene: its resolution, value range and bands.

If a network's card names its training resolution (``gsd_m``), every scene is resampled to about
that resolution, and the probabilities back onto the scene's grid. Tiles begin where pixels of both
grids begin, so that the result still does not depend on the tiling.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import cast

import numpy as np

from rscd.base.errors import ModelError
from rscd.base.types import BoolArray, FloatArray, Provenance
from rscd.geo.resample import resampled
from rscd.inference.kinds import BuildingModel, finds_buildings
from rscd.inference.predictor import Block, Model, Particular, Predictor, Tiling

LARGEST_DENOMINATOR = 8
"""Scales are fractions of small integers, so that tiles of a usable size fit both grids. This
misses the exact resolution by up to 8 percent, less than the variation seen in training."""
LARGEST_SCALE = 8
KERNEL_PX = 2
"""Support of bilinear resampling in both directions, in pixels of the coarser grid."""

REFLECTANCE = 10000.0
"""Stored value of reflectance 1 in 16-bit products."""
LARGEST_REFLECTANCE = 16000.0
"""If even the brightest values are below this, they are such reflectances."""
GAMMA = 2.2
BRIGHTEST_PERCENTILE = 99.9


@dataclass(frozen=True)
class Adapted:
    """A network adapted to one resolution and value type, as `Model` and `Predictor`."""

    model: Model
    n_bands: int
    """Bands of the network: the first ones of the scene."""
    scale: Fraction
    """Pixels of the network per pixel of the scene."""
    eight_bit: bool
    """Whether the scene's values are display values of 0 to 255 already."""
    one_type: bool = True
    """Whether both dates are stored in one type: the brighter date then sets the rule for both."""
    brightest: tuple[float, float] | None = None
    """Brightness of each date over the whole scene; determined by `fit` if needed."""

    @property
    def name(self) -> str:
        """Name of the network."""
        return self.model.name

    @property
    def summary(self) -> str:
        """Summary of the network."""
        return self.model.summary

    @property
    def threshold(self) -> float:
        """The network's threshold; resampling hardly changes probabilities."""
        return self._predictor.threshold

    @property
    def tiling(self) -> Tiling:
        """The network's tiling, in pixels of the scene."""
        own, scale = self.model.tiling, self.scale
        if scale == 1:
            return own
        multiple = own.multiple * scale.denominator
        multiple //= math.gcd(multiple, scale.numerator)
        values = 4 * 2 * self.n_bands + 4
        return replace(
            own,
            halo=math.ceil(own.halo / scale + KERNEL_PX * max(1.0, float(1 / scale))),
            multiple=multiple,
            tile_size=max(multiple, int(own.tile_size / scale)),
            patch=int(own.patch / scale),
            bytes_per_pixel=math.ceil((own.bytes_per_pixel + values) * scale**2) + values,
        )

    def card(self) -> Provenance:
        """The network's card, and how the scene is adapted to it."""
        values = "8 bit" if self.eight_bit else "brought to 8 bit"
        return self.model.card() | {"scale": str(self.scale), "values": values}

    def fit(self, blocks: Iterable[Block], n_pixels: int) -> "Adapted":
        """Determine the brightness of the scene, then let the model make its own pass.

        For 8-bit values the first pass is not needed; networks make no second one.
        """
        bright = self if self.eight_bit else self._brightened(blocks)
        fitted = self.model.fit(map(bright._block_as_seen, blocks), n_pixels)
        same = cast(object, fitted) is self.model  # networks
        return bright if same else replace(bright, model=cast(Model, fitted))

    def _brightened(self, blocks: Iterable[Block]) -> "Adapted":
        tops = [_brightest(block) for block in blocks]
        t1, t2 = (max((top[date] for top in tops), default=0.0) for date in (0, 1))
        return replace(self, brightest=(max(t1, t2),) * 2 if self.one_type else (t1, t2))

    def _block_as_seen(self, block: Block) -> Block:
        valid, image = self._as_seen(block.image[None], block.valid[None])
        return replace(block, image=image[0], valid=valid[0])

    def __call__(self, image: FloatArray, valid: BoolArray) -> FloatArray:
        """Predict change; see ``Predictor``.

        Raises:
            ModelError: if the image has fewer bands than the network.
        """
        seen, shown = self._as_seen(image, valid)
        prob = self._predictor(shown, seen)
        return prob if self.scale == 1 else _brought_back(prob[:, None], valid)[:, 0]

    @property
    def finds_buildings(self) -> bool:
        """Whether the network does: one looked through at several scales does not."""
        return finds_buildings(self.model)

    def with_buildings(self, image: FloatArray, valid: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Change and buildings, of networks that return both; see `rscd.inference.kinds`."""
        model = self.model
        if not isinstance(model, BuildingModel):
            raise ModelError(f"expected a network that finds buildings, found {self.name}")
        seen, shown = self._as_seen(image, valid)
        prob, buildings = model.with_buildings(shown, seen)
        if self.scale == 1:
            return prob, buildings
        return _brought_back(prob[:, None], valid)[:, 0], _brought_back(buildings, valid)

    def _as_seen(self, image: FloatArray, valid: BoolArray) -> tuple[BoolArray, FloatArray]:
        """(B,h,w) valid and (B,2,C,h,w) values, as input of the network.

        Raises:
            ModelError: if the image has fewer bands than the network.
        """
        if image.shape[2] < self.n_bands:
            raise ModelError(
                f"expected at least {self.n_bands} bands for {self.name}, found {image.shape[2]}; "
                "choose a training-free model, see rscd model list"
            )
        shown = image[:, :, : self.n_bands]
        if self.brightest is not None:
            dates = zip(np.moveaxis(shown, 1, 0), self.brightest, strict=True)
            shown = np.stack([to_eight_bit(date, top) for date, top in dates], axis=1)
        shown = np.ascontiguousarray(shown)
        if self.scale == 1:
            return valid, shown
        height, width = valid.shape[1:]
        inner = int(height * self.scale), int(width * self.scale)
        seen = resampled(valid.astype(np.float32), inner) > 0
        return seen, resampled(shown, inner)

    @property
    def _predictor(self) -> Predictor:
        """The model is the predictor: networks need no fitting, others are fitted in `fit`."""
        return self.model  # type: ignore[return-value]


def adapted(
    model: Model, n_bands: int, gsd_m: float | None, *, eight_bit: bool, one_type: bool = True
) -> Model:
    """Adapt a model to a scene.

    Args:
        model: a network whose card names the resolution it was trained at, ``gsd_m``; or a
            detector on frozen features, which takes 8-bit values of three bands, or one, at the
            scene's resolution.
        n_bands: of the scene.
        gsd_m: pixel size of the scene in metres; None assumes that of the network.
        eight_bit: whether both dates have 8-bit values.
        one_type: whether both dates are stored in one type.

    Returns:
        The model itself if there is nothing to adapt, or nothing is known about it.
    """
    expected = model.expects(n_bands) if isinstance(model, Particular) else None
    if expected is None:
        return model
    own = expected.gsd_m
    scale = Fraction(1) if own is None else scale_between(gsd_m or own, own)
    if scale == 1 and eight_bit and n_bands == expected.n_bands:
        return model
    return Adapted(model, expected.n_bands, scale, eight_bit, one_type)


def scale_between(gsd_m: float, network_gsd_m: float) -> Fraction:
    """Pixels of the network per pixel of a scene, as a fraction of small integers.

    Args:
        gsd_m: of the scene, metres.
        network_gsd_m: likewise.
    """
    wanted = min(max(gsd_m / network_gsd_m, 1 / LARGEST_SCALE), LARGEST_SCALE)
    return Fraction(wanted).limit_denominator(LARGEST_DENOMINATOR)


def _brought_back(prob: FloatArray, valid: BoolArray) -> FloatArray:
    """(B,K,h,w) resampled from the network's grid to the scene's, that of ``valid`` (B,H,W)."""
    return resampled(prob, valid.shape[1:])


def to_eight_bit(image: FloatArray, brightest: float) -> FloatArray:
    """Values of any range as display values of 0 to 255.

    The range is inferred from the brightest values of the whole scene, with one rule for all of it
    (or for each date, if they are stored in different types):

    * up to 1: fractions of full scale;
    * up to 255: display values stored in a larger type;
    * up to 16000: reflectance x 10000, shown with gamma 2.2 (also raw counts of 10 to 13 bits,
      which become a little too dark);
    * above: the full 16-bit range.

    Args:
        image: any shape.
        brightest: of the scene.
    """
    if brightest <= 1:
        shown = image * 255
    elif brightest <= 255:
        shown = image
    elif brightest <= LARGEST_REFLECTANCE:
        shown = 255 * np.power(np.maximum(image, 0) / np.float32(REFLECTANCE), 1 / GAMMA)
    else:
        shown = image / np.float32(257)
    return np.clip(shown, 0, 255).astype(np.float32)


def _brightest(block: Block) -> tuple[float, float]:
    """A high percentile of each date's valid values, which ignores single hot pixels."""
    if not block.valid.any():
        return 0.0, 0.0
    t1, t2 = np.percentile(block.image[:, :, block.valid], BRIGHTEST_PERCENTILE, axis=(1, 2))
    return float(t1), float(t2)
