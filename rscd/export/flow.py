"""Flow between the dates as a GeoTIFF."""

import json
from collections.abc import Iterable
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
from rscd.export.readback import check_blocks, checksum
from rscd.geo.grid import stored_crs
from rscd.geo.settings import unplaced
from rscd.geo.tiles import Box

BLOCK_SIZE = 256
DESCRIPTIONS = ("dx, pixels, right", "dy, pixels, down")


def write_flow(
    grid: GeoBox, pieces: Iterable[tuple[Box, FloatArray]], path: Path, provenance: Provenance
) -> None:
    """Write flow piece by piece: float32, two bands, nodata NaN.

    A pixel p of the file matches position p + flow(p) of t1.

    Args:
        grid: of the scene.
        pieces: boxes that cover the grid, and their flow (2,h,w) in pixels of the grid.
        path: ends in .tif or .tiff.
        provenance: written into the file's tags.

    Raises:
        OutputError: if it cannot be written.
    """
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": grid.shape[0],
        "width": grid.shape[1],
        "count": 2,
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
            for band, text in enumerate(DESCRIPTIONS, 1):
                dataset.set_band_description(band, text)
            dataset.update_tags(rscd_provenance=json.dumps(redacted_data(provenance)))
            for box, piece in pieces:
                flow = np.asarray(piece, np.float32)
                dataset.write(flow, window=_window(box))
                made.append((box, checksum(flow)))
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
