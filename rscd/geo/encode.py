"""Small rasters as the bytes of a GeoTIFF."""

import warnings
from collections.abc import Callable
from typing import Any

from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile


def geotiff(fill: Callable[[Any], None], **profile: Any) -> bytes:
    """The bytes of a GeoTIFF that is made in memory.

    On disk GDAL reports failed writes late or not at all; bytes are written with
    `rscd.base.files.write_bytes`, which does.

    Args:
        fill: given the open dataset, writes pixels, tags and the like.
        profile: as for `rasterio.open`.
    """
    with warnings.catch_warnings(), MemoryFile(ext=".tif") as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(driver="GTiff", **profile) as dataset:
            fill(dataset)
        return bytes(memory.read())
