"""The change mask as a plain picture, for pictures without georeferencing."""

from pathlib import Path

import cv2
import numpy as np

from rscd.errors import OutputError
from rscd.export.atomic import atomic_folder
from rscd.files import write_bytes
from rscd.geo.changemap import ChangeMap
from rscd.types import IGNORE

SUFFIX = ".png"
GRAYS = {0: 0, 1: 255, IGNORE: 127}
"""Of no change, change and no data."""
MAX_PIXELS = 1 << 28
"""The picture is made in memory."""


def write_mask_picture(change_map: ChangeMap, path: Path) -> None:
    """Write the change mask as 8-bit gray PNG: 0 no change, 255 change, 127 no data.

    Args:
        change_map: with its mask made.
        path: ends in .png.

    Raises:
        OutputError: when it cannot be written, or the scene is too large for a picture.
    """
    height, width = change_map.mask.shape_hw
    if height * width > MAX_PIXELS:
        raise OutputError(
            f"expected at most {MAX_PIXELS} pixels for {path}, found {width} x {height}; write a "
            ".tif"
        )
    grays = np.zeros(256, np.uint8)
    grays[list(GRAYS)] = list(GRAYS.values())
    _, picture = cv2.imencode(SUFFIX, grays[change_map.mask.read_rows(0, height)])
    with atomic_folder(path) as folder:
        write_bytes(folder / path.name, picture.tobytes())
