"""Constants and types shared by every layer, such as the batch."""

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = 255
"""Mask value of pixels to ignore; nodata value of the change mask."""

CARD_KEY = "rscd_card"
"""Key of the model card in weights and checkpoints: all that prediction needs besides tensors."""
CARD_FORMAT = 1
METHOD_PREFIX = "method."
NETWORK_PREFIX = f"{METHOD_PREFIX}network."
"""Key prefix of the predicting network's tensors in a training checkpoint."""

CHANGE_RGB = (255, 0, 170)
"""Colour of change in all pictures: a magenta that vegetation, soil and roofs never have."""

LAYERS = ("vl_change", "vl_t1", "vl_t2")
"""Labels made by a vision-language model: change, and foreground at each date."""

FloatArray = NDArray[np.float32]
Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]
ShapeHW = tuple[int, int]
"""(height, width) in pixels."""

Bounds = tuple[float, float, float, float]
"""(left, bottom, right, top) in CRS units."""

DateName = Literal["t1", "t2"]
"""A date of a pair, the earlier one first."""

Align = Literal["t1", "t2", "none"]
"""The date whose grid carries the result; ``none`` accepts only equal grids."""

Provenance = dict[str, Any]
"""Plain JSON data: inputs, parameters, versions."""


class Progress(Protocol):
    """Progress callback; the command line draws a bar with it."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report that `done` of `total` units of `stage` are finished."""


def silent(stage: str, done: int, total: int) -> None:
    """A progress callback that does nothing."""


class Batch(TypedDict, total=False):
    """A collated batch with TorchGeo's keys; index 0 of ``image`` is t1."""

    image: "Tensor"  # (B,2,C,H,W) float32, raw sensor values
    mask: "Tensor"  # (B,1,H,W) int64: 0 no change, 1 change, 255 ignore
    label: "Tensor"  # (B,) int64: 1 where anything changed in the pair
    valid: "Tensor"  # (B,1,H,W) bool: usable at both dates
    flow: "Tensor"  # (B,2,H,W) float32 pixels, on the t2 grid, pointing to t1; channel 0 = x
