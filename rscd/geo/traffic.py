"""How many bytes of a raster are read for some boxes of a grid, before any pixel is."""

from collections.abc import Iterable
from itertools import product

from odc.geo.geobox import GeoBox

from rscd.geo.settings import raster_border, unplaced
from rscd.geo.source import Offset, Source, looked_at, open_input
from rscd.geo.tiles import Box


def bytes_of(source: Source, offset: Offset, grid: GeoBox, boxes: Iterable[Box]) -> int | None:
    """Compressed size of the blocks of a TIFF that boxes touch, each counted once.

    Args:
        source: one date.
        offset: how it is brought onto the grid.
        grid: of the pair.
        boxes: within the grid.

    Returns:
        Bytes; None for formats that do not tell.

    Raises:
        SceneError: if the file cannot be opened any more.
    """
    if source.opens is not None:
        return None
    with (
        unplaced(),
        raster_border(source.date, source.path),
        open_input(source.path, source.stamp) as dataset,
    ):
        if dataset.driver != "GTiff":
            return None
        block_h, block_w = dataset.block_shapes[0]
        touched: set[tuple[int, int]] = set()
        for box in boxes:
            part = looked_at(source, grid, box) if offset is None else box.moved(*offset[::-1])
            if part is not None:
                rows = range(part.row // block_h, -(-(part.row + part.height) // block_h))
                cols = range(part.col // block_w, -(-(part.col + part.width) // block_w))
                touched.update(product(cols, rows))
        shared = dataset.profile.get("interleave") == "pixel"
        bands = (1,) if shared else source.bands
        # a block that is not stored has no size: GDAL fills it with nodata
        sizes = (
            dataset.get_tag_item(f"BLOCK_SIZE_{col}_{row}", "TIFF", bidx=band)
            for band in bands
            for col, row in touched
        )
        return sum(int(size) for size in sizes if size is not None)
