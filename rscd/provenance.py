"""What a result was made from: plain data that is the same for the same inputs."""

import warnings
from pathlib import Path

import rasterio
from rasterio.errors import NotGeoreferencedWarning

from rscd.files import sha256_of
from rscd.types import Provenance


def describe_raster(path: str | Path) -> Provenance:
    """`describe_file`, and the hashes of what belongs to it: sources of a VRT, masks, sidecars."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            others = [name for name in dataset.files if Path(name) != Path(path)]
    found = describe_file(path)
    if others:
        found["with"] = [describe_file(name) for name in sorted(others)]
    return found


def describe_file(path: str | Path) -> Provenance:
    """Name, size in bytes and SHA-256 of a file; name alone for URLs and GDAL's virtual paths."""
    file = Path(path)
    if "://" in str(path) or not file.is_file():
        return {"path": str(path)}
    return {"path": str(path), "bytes": file.stat().st_size, "sha256": sha256_of(file)}
