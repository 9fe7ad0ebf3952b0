"""Flow between the dates, and their dissimilarity along it, as GeoTIFF or picture."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from rscd.base.files import require_as_written
from rscd.base.redact import redacted_data
from rscd.base.types import FloatArray, Provenance
from rscd.export.atomic import atomic_folder
from rscd.export.gdal import heeding_gdal
from rscd.export.picture import SUFFIX as PICTURE_SUFFIX
from rscd.export.picture import gray_canvas, write_gray_picture
from rscd.export.readback import check_blocks, checksum
from rscd.geo.grid import stored_crs
from rscd.geo.settings import unplaced
from rscd.geo.tiles import Box

BLOCK_SIZE = 256
FLOW = ("dx, pixels, right", "dy, pixels, down")
"""Bands of a flow: a pixel p of the file matches position p + flow(p) of t1."""
DISSIMILARITY = ("dissimilarity, 0 to 1",)


def write_field(
    grid: GeoBox,
    pieces: Iterable[tuple[Box, FloatArray]],
    path: Path,
    bands: Sequence[str],
    provenance: Provenance,
) -> None:
    """Write a field piece by piece: a GeoTIFF of float32 and nodata NaN, or a grey picture.

    Args:
        grid: of the scene.
        pieces: boxes that cover the grid, and their field (K,h,w) in pixels of the grid.
        path: ends in .tif, .tiff, or for one band from 0 to 1 in .png: 0 black, 1 white, no data
            black.
        bands: descriptions of the K bands.
        provenance: written into a GeoTIFF's tags.

    Raises:
        OutputError: if it cannot be written.
    """
    if path.suffix.lower() == PICTURE_SUFFIX:
        grays = gray_canvas((grid.shape[0], grid.shape[1]), path)
        for box, piece in pieces:
            grays[box.slices] = np.rint(255 * np.nan_to_num(piece[0]))
        write_gray_picture(grays, grid, path)
        return
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": grid.shape[0],
        "width": grid.shape[1],
        "count": len(bands),
        "dtype": "float32",
        "nodata": float("nan"),
        "crs": stored_crs(grid),
        "transform": grid.affine,
        "tiled": True,
        "blockxsize": BLOCK_SIZE,
        "blockysize": BLOCK_SIZE,
        "compress": "DEFLATE",
        "predictor": 3,
        "BIGTIFF": "IF_SAFER",
    }
    made: list[tuple[Box, int]] = []
    with atomic_folder(path) as folder, unplaced(), heeding_gdal():
        with rasterio.open(folder / path.name, "w", **profile) as dataset:
            for band, text in enumerate(bands, 1):
                dataset.set_band_description(band, text)
            dataset.update_tags(rscd_provenance=json.dumps(redacted_data(provenance)))
            for box, piece in pieces:
                field = np.asarray(piece, np.float32)
                dataset.write(field, window=_window(box))
                made.append((box, checksum(field)))
        _check(folder / path.name, made, provenance)


def _check(path: Path, made: Iterable[tuple[Box, int]], provenance: Provenance) -> None:
    check_blocks(path)
    with rasterio.open(path) as dataset:
        stored = json.loads(dataset.tags().get("rscd_provenance", "null"))
        require_as_written(
            stored == json.loads(json.dumps(redacted_data(provenance))), "the provenance"
        )
        for box, wanted in made:
            found = dataset.read(window=_window(box))
            require_as_written(checksum(found) == wanted, "pixels")


def _window(box: Box) -> Window:
    return Window(box.col, box.row, box.width, box.height)
