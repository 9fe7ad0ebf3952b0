"""Small rasters as the bytes of a GeoTIFF."""

from collections.abc import Callable
from typing import Any

from rasterio.io import MemoryFile

from rscd.geo.settings import unplaced


def geotiff(fill: Callable[[Any], None], **profile: Any) -> bytes:
    """Write a GeoTIFF in memory and return its bytes.

    GDAL reports failed writes to disk late or not at all; `rscd.base.files.write_bytes`, which
    writes these bytes, reports them.

    Args:
        fill: function that writes pixels and tags to the open dataset.
        profile: as for `rasterio.open`.
    """
    with unplaced(), MemoryFile(ext=".tif") as memory:
        with memory.open(driver="GTiff", **profile) as dataset:
            fill(dataset)
        return bytes(memory.read())
