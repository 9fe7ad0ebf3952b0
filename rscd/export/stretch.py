"""From raw values to what a screen shows, the same way for every picture of a scene."""

from dataclasses import dataclass

import numpy as np

from rscd.base.types import ByteArray, Float64Array, FloatArray

PERCENTILES = (2, 98)
SHOWN_BANDS = 3


@dataclass(frozen=True, eq=False)
class Stretch:
    """Per band of a date the values shown as black and as full colour."""

    low: Float64Array
    """(3,) or (1,), of one grey band."""
    high: Float64Array

    @classmethod
    def of(cls, date: FloatArray) -> "Stretch":
        """From the 2nd to the 98th percentile of each band.

        Args:
            date: (C,h,w) raw values, 0 where there are none; the first three bands are red, green
                and blue, of fewer the first is grey.
        """
        bands = _shown(date)
        used = (bands != 0).any(axis=0)
        if not used.any():
            return cls(np.zeros(len(bands)), np.ones(len(bands)))
        low, high = np.percentile(bands[:, used], PERCENTILES, axis=1)
        return cls(low, high)

    def apply(self, date: FloatArray) -> ByteArray:
        """(C,h,w) raw values -> (h,w,3) uint8."""
        low, high = self.low[:, None, None], self.high[:, None, None]
        scaled = (_shown(date) - low) / np.maximum(high - low, 1e-6) * 255
        shown = np.clip(scaled, 0, 255).astype(np.uint8).transpose(1, 2, 0)
        return np.ascontiguousarray(np.broadcast_to(shown, (*shown.shape[:2], SHOWN_BANDS)))


def _shown(date: FloatArray) -> FloatArray:
    return date[:SHOWN_BANDS] if len(date) >= SHOWN_BANDS else date[:1]
