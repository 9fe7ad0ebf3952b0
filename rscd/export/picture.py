"""The change mask and other grey maps as PNG, for pictures without georeferencing."""

from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from rscd.base.errors import OutputError
from rscd.base.files import write_bytes, write_text
from rscd.base.types import IGNORE, ByteArray, ShapeHW
from rscd.export.atomic import atomic_folder
from rscd.geo.changemap import ChangeMap
from rscd.geo.pictures import is_picture, world_file
from rscd.geo.tiles import Box

SUFFIX = ".png"
WORLD_SUFFIX = ".pgw"
GRAYS = {0: 0, 1: 255, IGNORE: 127}
"""Values of no change, change and no data."""
MAX_PIXELS = 1 << 28
"""Limit on the size of the picture, which is made in memory."""


def write_mask_picture(change_map: ChangeMap, path: Path) -> None:
    """Write the change mask as 8-bit grey PNG: 0 no change, 255 change, 127 no data.

    If its coordinates are not those of a picture without georeferencing, a world file (``.pgw``) is
    written beside it.

    Args:
        change_map: with its mask made.
        path: ends in .png.

    Raises:
        OutputError: if it cannot be written, or the scene is too large for a picture.
    """
    canvas = gray_canvas(change_map.mask.shape_hw, path)
    grays = np.zeros(256, np.uint8)
    grays[list(GRAYS)] = list(GRAYS.values())
    canvas[...] = grays[change_map.mask.read(Box(0, 0, *canvas.shape))]
    write_gray_picture(canvas, change_map.grid, path)


def gray_canvas(shape_hw: ShapeHW, path: Path) -> ByteArray:
    """(H,W) uint8 zeros for a picture.

    Raises:
        OutputError: if the scene is too large for one.
    """
    height, width = shape_hw
    if height * width > MAX_PIXELS:
        raise OutputError(
            f"expected at most {MAX_PIXELS} pixels for {path}, found {width} x {height}; write a "
            ".tif"
        )
    return np.zeros((height, width), np.uint8)


def write_gray_picture(grays: ByteArray, grid: GeoBox, path: Path) -> None:
    """Write (H,W) uint8 as PNG, with a world file as `write_mask_picture` says.

    Raises:
        OutputError: if it cannot be written.
    """
    import cv2  # a tenth of a second, which runs without pictures need not wait for

    _, picture = cv2.imencode(SUFFIX, grays)
    with atomic_folder(path) as folder:
        write_bytes(folder / path.name, picture.tobytes())
        if not (is_picture(grid) or (grid.crs is None and grid.affine.is_identity)):
            write_text(folder / path.with_suffix(WORLD_SUFFIX).name, world_file(grid.affine))
