"""A preview picture: t1, t2, and t2 with change outlined."""

from collections.abc import Sequence
from pathlib import Path

import geopandas
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray

from rscd.base.files import write_bytes
from rscd.base.types import CHANGE_RGB, ByteArray, FloatArray, ShapeHW
from rscd.export.atomic import atomic_folder
from rscd.export.stretch import Stretch
from rscd.geo.changemap import ChangeMap
from rscd.geo.scene import ScenePair
from rscd.geo.tiles import Box

PANEL_PX = 1024
"""Longest side of a panel; larger scenes are subsampled."""
SUFFIXES = (".png", ".jpg")
GAP_PX = 8
OUTLINE_RGB = CHANGE_RGB


def write_preview(
    pair: ScenePair,
    change_map: ChangeMap,
    path: Path,
    polygons: geopandas.GeoDataFrame | None = None,
) -> None:
    """Write a picture with three panels: t1, t2, t2 with change outlined.

    Args:
        pair: the scene.
        change_map: with its mask made.
        path: ends in one of `SUFFIXES`.
        polygons: polygons to outline, in the CRS of the scene; None outlines the change mask.

    Raises:
        OutputError: if it cannot be written.
    """
    import cv2  # as in `rscd.export.picture`

    step = -(-max(pair.shape_hw) // PANEL_PX)
    mask = _thinned(change_map, pair.shape_hw, step)
    image, _ = pair.thumbnail((mask.shape[0], mask.shape[1]))
    t1, t2 = (_display(date) for date in image)
    outlined = t2.copy()
    if polygons is None:
        contours, _ = cv2.findContours(
            (mask == 1).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
        )
    else:
        contours = _rings(polygons, pair.grid.affine * Affine.scale(step))
    cv2.drawContours(outlined, contours, -1, OUTLINE_RGB, 1 + max(mask.shape) // 600)
    gap = np.full((t1.shape[0], GAP_PX, 3), 255, np.uint8)
    sheet = np.hstack([t1, gap, t2, gap, outlined])
    _, picture = cv2.imencode(path.suffix.lower(), sheet[:, :, ::-1])
    with atomic_folder(path) as folder:
        write_bytes(folder / path.name, picture.tobytes())


def _rings(polygons: geopandas.GeoDataFrame, transform: Affine) -> Sequence[NDArray[np.int32]]:
    """Outer and inner rings as contours of pixels (n,1,2)."""
    parts = shapely.get_parts(polygons.geometry.to_numpy())
    inverse = ~transform
    found = []
    for ring in shapely.get_rings(parts):
        x, y = shapely.get_coordinates(ring).T
        at = np.stack(inverse * (x, y), axis=1) - 0.5
        found.append(np.round(at).astype(np.int32)[:, None])
    return found


def _thinned(change_map: ChangeMap, shape_hw: ShapeHW, step: int) -> ByteArray:
    """Every k-th pixel of the mask (h,w), read in strips of rows."""
    height, width = shape_hw
    masks = []
    for row in range(0, height, 256 * step):
        rows = min(256 * step, height - row)
        masks.append(change_map.mask.read(Box(row, 0, rows, width))[::step, ::step])
    return np.concatenate(masks)


def _display(date: FloatArray) -> ByteArray:
    """(C,h,w) raw values -> (h,w,3) uint8."""
    return Stretch.of(date).apply(date)
