"""One comparison of a change mask with its truth, in pixels and in objects."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rscd.geo.changemap import RawRaster
from rscd.geo.polygons import trace
from rscd.geo.tiles import Box
from rscd.objects import ObjectCounts, count_objects
from rscd.types import IGNORE, BoolArray, ByteArray, ShapeHW


@dataclass(frozen=True)
class Scratch:
    """Prediction and truth of one scene on disk: 0 no change, 1 change, 255 does not count.

    Objects are traced from here, so memory follows the polygons, not the pixels.
    """

    predicted: RawRaster
    true: RawRaster

    @classmethod
    def create(cls, folder: Path, shape_hw: ShapeHW) -> "Scratch":
        """Reserve the space.

        Raises:
            OSError: when there is no room.
        """
        rasters = (RawRaster(folder / f"{n}.img", shape_hw, "uint8") for n in ("predicted", "true"))
        scratch = cls(*rasters)
        scratch.predicted.create()
        scratch.true.create()
        return scratch

    def write(self, box: Box, predicted: ByteArray, true: ByteArray) -> None:
        """Store a box of both."""
        self.predicted.write(box, predicted)
        self.true.write(box, true)

    def objects(self) -> ObjectCounts:
        """Compare the 4-connected regions of change of both."""
        return count_objects(trace(self.predicted.path), trace(self.true.path))


def only_counted(predicted: ByteArray, true: ByteArray) -> tuple[ByteArray, ByteArray]:
    """Put 255 into both wherever either has it, so that pixels and objects share one area.

    Args:
        predicted: (h,w) 0, 1 or 255 = no prediction.
        true: (h,w) 0, 1 or 255 = no label.
    """
    out = (predicted == IGNORE) | (true == IGNORE)
    return _with_ignored(predicted, out), _with_ignored(true, out)


def _with_ignored(mask: ByteArray, out: BoolArray) -> ByteArray:
    return np.where(out, np.uint8(IGNORE), mask)
