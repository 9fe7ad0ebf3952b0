"""Kind of change of each polygon, from a network that also predicts buildings.

The pass that finds change keeps, for each date, how sure the network is of a building. Under a
polygon both are averaged: where the later date exceeds the earlier one by a margin, a building
appeared; where it falls short by as much, one vanished; else something stands at both dates and
changed.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rscd.base.errors import ModelError
from rscd.base.types import IGNORE, BoolArray, ByteArray, DateName, FloatArray
from rscd.geo.changemap import ChangeMap, RawRaster
from rscd.geo.polygons import Polygons, mean_under
from rscd.geo.tiles import Box

MARGIN = "kind_margin"
"""Card key of networks whose buildings determine kinds: the margin, from 0 to 1."""

BYTES_PER_PIXEL = 2
"""Of scratch space: one for each date."""
MASK_BYTES_PER_PIXEL = 1
"""Of scratch space beside it where objects are outlined, one date after the other."""

FULL = 255
"""Stored value of probability 1."""

STANDING_FROM = 0.5
"""Probability from which a pixel is a building."""


@runtime_checkable
class BuildingModel(Protocol):
    """A model whose network also predicts buildings."""

    @property
    def finds_buildings(self) -> bool:
        """Whether its network does; others have the method in vain."""

    def with_buildings(self, image: FloatArray, valid: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Predict change, bit for bit as a `Predictor`, and in the same pass buildings.

        Args:
            image: (B,2,C,H,W) float32 raw values, t1 first. Invalid pixels are 0.
            valid: (B,H,W) bool, true where both dates can be used.

        Returns:
            (B,H,W) float32 probability of change and (B,2,H,W) float32 probability of a building
            at each date, t1 first, both in [0,1].
        """


def finds_buildings(model: Any) -> bool:
    """Whether a model of any kind says where buildings stand."""
    return isinstance(model, BuildingModel) and model.finds_buildings


def check_finds_buildings(model: Any, option: str) -> None:
    """Find out before any work whether a model says where buildings stand.

    Args:
        model: of any kind.
        option: what asks for them, for the message.

    Raises:
        ModelError: it does not.
    """
    if not finds_buildings(model):
        raise ModelError(
            f"expected a model that finds the buildings of each date for {option}, such as "
            f"-m buildings without --msi and --tta, found {model.name}; choose one or drop {option}"
        )


def kind_of(t1: NDArray[np.float64], t2: NDArray[np.float64], margin: float) -> NDArray[Any]:
    """Kinds of polygons.

    Args:
        t1: (N,) mean building probability under each polygon at the earlier date.
        t2: (N,) likewise at the later date.
        margin: least difference if something appeared or vanished.

    Returns:
        (N,) of ``appeared``, ``vanished`` and ``changed``. Swapping the dates swaps the first two
        and nothing else.
    """
    rise = t2 - t1
    names = np.array(["vanished", "changed", "appeared"], dtype=object)
    kinds: NDArray[Any] = names[1 + (rise >= margin).astype(int) - (-rise >= margin).astype(int)]
    return kinds


def stored(prob: FloatArray, wanted: BoolArray) -> ByteArray:
    """Probabilities as `Standing` stores them.

    Args:
        prob: (2,h,w) in [0,1]; any value where not wanted.
        wanted: (h,w).

    Returns:
        (2,h,w), 0 to `FULL`; 0 where not wanted.
    """
    full: FloatArray = np.where(wanted, prob, np.float32(0)) * np.float32(FULL)
    return np.rint(full).astype(np.uint8)


@dataclass(frozen=True)
class Standing:
    """How sure a network is of a building at each date, on disk."""

    t1: RawRaster
    t2: RawRaster
    margin: float

    @classmethod
    def beside(cls, change_map: ChangeMap, margin: float) -> "Standing":
        """In the folder of a change map; the rasters are not made yet.

        Args:
            change_map: of the same grid.
            margin: see `kind_of`.
        """
        t1, t2 = (
            RawRaster(
                change_map.folder / f"buildings_{date}.img", change_map.prob.shape_hw, "uint8"
            )
            for date in ("t1", "t2")
        )
        return cls(t1, t2, margin)

    @property
    def rasters(self) -> tuple[RawRaster, RawRaster]:
        """Both dates, t1 first."""
        return self.t1, self.t2

    def write(self, box: Box, values: ByteArray) -> None:
        """Write a box of both dates: (2,h,w), 0 to `FULL`."""
        for raster, date in zip(self.rasters, values, strict=True):
            raster.write(box, date)

    def read(self, box: Box) -> ByteArray:
        """A box of both dates as (2,h,w), 0 to `FULL`."""
        return np.stack([raster.read(box) for raster in self.rasters])

    def kinds(self, polygons: Polygons) -> NDArray[Any]:
        """(N,) kinds of polygons in pixel coordinates, see `kind_of`."""
        t1, t2 = (mean_under(polygons, raster.path) / FULL for raster in self.rasters)
        return kind_of(t1, t2, self.margin)

    def of(self, date: DateName) -> RawRaster:
        """The probabilities of a date, 0 to `FULL`."""
        return self.t1 if date == "t1" else self.t2

    def mask(self, date: DateName, change_mask: RawRaster) -> RawRaster:
        """Write the buildings of a date as a mask, strip by strip; it replaces that of the other.

        Args:
            date: whose.
            change_mask: what has no data in it has none here.

        Returns:
            uint8: 0 none, 1 building, 255 no data.
        """
        probs = self.of(date)
        mask = RawRaster(probs.path.with_name("buildings_mask.img"), probs.shape_hw, "uint8")
        mask.create()
        for strip, prob in probs.strips():
            found = (prob >= STANDING_FROM * FULL).view(np.uint8)
            found[change_mask.read(strip) == IGNORE] = IGNORE
            mask.write(strip, found)
        return mask
