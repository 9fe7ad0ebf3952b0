"""Flow between the dates as a GeoTIFF."""

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from rscd.errors import OutputError
from rscd.export.atomic import atomic_folder
from rscd.geo.grid import stored_crs
from rscd.geo.tiles import Box
from rscd.redact import redacted_data
from rscd.types import FloatArray, Provenance

BLOCK_SIZE = 256
DESCRIPTIONS = ("dx, pixels, right", "dy, pixels, down")


def write_flow(
    grid: GeoBox, pieces: Iterable[tuple[Box, FloatArray]], path: Path, provenance: Provenance
) -> None:
    """Write flow as it comes, piece by piece: float32, two bands, nodata NaN.

    A pixel p of the file matches place p + flow(p) of t1.

    Args:
        grid: of the scene.
        pieces: boxes that cover the grid, and their flow (2,h,w) in pixels of the grid.
        path: ends in .tif or .tiff.
        provenance: written into the file's tags.

    Raises:
        OutputError: when it cannot be written.
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
    with atomic_folder(path) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(folder / path.name, "w", **profile) as dataset:
                for band, text in enumerate(DESCRIPTIONS, 1):
                    dataset.set_band_description(band, text)
                dataset.update_tags(rscd_provenance=json.dumps(redacted_data(provenance)))
                for box, flow in pieces:
                    window = Window(box.col, box.row, box.width, box.height)
                    dataset.write(np.asarray(flow, np.float32), window=window)
        except RasterioError as error:
            cause = " ".join(str(error.__cause__ or error).split())
            raise OutputError(
                f"expected to write {path}, found: {cause}; check free space and permissions"
            ) from error
