"""Step sizes that fit into the memory the user allows."""

import logging
import re
from dataclasses import dataclass, replace

import psutil

from rscd.base.errors import UsageError
from rscd.inference.predictor import Tiling

MIN_TILE = 64
GDAL_CACHE = 128 << 20
"""GDAL's block cache if the user sets no limit; its own default is a fraction of all memory."""
RESULTS = 96 << 20
"""Memory for tracing and overviews, after prediction."""
MARGIN = 32 << 20
"""Safety factor of the estimates."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Load:
    """Memory in use at once while predicting."""

    tile_size: int
    batch_size: int
    workers: int
    gdal_cache: int
    """Bytes of GDAL's block cache."""
    remote_cache: int = 0
    """Bytes of remote files that GDAL keeps, see `rscd.geo.settings.remote_cache`."""

    def nbytes(self, n_bands: int, tiling: Tiling) -> int:
        """Estimate in addition to what the process uses already."""
        pixels = self.batch_size * (self.tile_size + 2 * tiling.halo) ** 2
        # raw values as read, as float32 and stacked, at both dates; the model's own; validity
        per_pixel = 2 * n_bands * (4 + 4 + 4) + tiling.bytes_per_pixel + 8
        stages = (tiling.fit_bytes, pixels * per_pixel * self.workers, RESULTS)
        return max(stages) + self.gdal_cache + self.remote_cache


def fit_load(load: Load, limit: int | None, n_bands: int, tiling: Tiling) -> Load:
    """Shrink a load until it fits: first the cache, then batch, workers and tiles.

    Results do not depend on any of these.

    Args:
        load: the requested load.
        limit: bytes the whole process may use; None for no limit.
        n_bands: bands per date.
        tiling: of the model.

    Raises:
        UsageError: if even the smallest step does not fit.
    """
    if limit is None:
        return load
    asked = load
    room = limit - psutil.Process().memory_info().rss - MARGIN
    cache = max(8 << 20, min(load.gdal_cache, (room - load.remote_cache - RESULTS) // 4))
    load = replace(load, gdal_cache=cache)
    while load.nbytes(n_bands, tiling) > room:
        if load.batch_size > 1:
            load = replace(load, batch_size=load.batch_size // 2)
        elif load.workers > 1:
            load = replace(load, workers=load.workers - 1)
        elif load.tile_size > MIN_TILE:
            load = replace(load, tile_size=max(MIN_TILE, load.tile_size // 2))
        else:
            need = limit - room + load.nbytes(n_bands, tiling)
            raise UsageError(
                f"expected --max-memory of at least {-(-need // 10**6)}MB for this model and "
                f"scene, found {limit // 10**6}MB; raise it"
            )
    if load != asked:
        log.info(
            "to stay within --max-memory: tiles of %d, batches of %d, %d workers",
            *(load.tile_size, load.batch_size, load.workers),
        )
    return load


def parse_memory(text: str) -> int:
    """``"2GB"``, ``"800MB"``, ``"1.5GiB"`` -> bytes.

    Raises:
        UsageError: for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if match is None:
        raise UsageError(f"expected a memory size such as 2GB or 800MB, found {text!r}")
    number, prefix, binary = match.groups()
    power = " KMGT".index(prefix.upper() or " ")
    return int(float(number) * (1024 if binary else 1000) ** power)
