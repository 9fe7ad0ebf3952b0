"""File suffixes and their writers."""

from collections.abc import Mapping
from pathlib import Path

import geopandas

from rscd.base.errors import UsageError
from rscd.export.picture import SUFFIX as PICTURE_SUFFIX
from rscd.export.picture import WORLD_SUFFIX, write_mask_picture
from rscd.export.raster import write_mask
from rscd.export.style import change_qml
from rscd.export.vector import SUFFIXES as VECTOR_SUFFIXES
from rscd.export.vector import vector_files, write_vector
from rscd.geo.changemap import ChangeMap

RASTER_SUFFIXES = (".tif", ".tiff")


def is_vector(path: Path) -> bool:
    """Whether an output contains polygons."""
    return path.suffix.lower() in VECTOR_SUFFIXES


def files_beside(path: Path) -> list[Path]:
    """Files that may be written with an output: its style, provenance, world file."""
    if is_vector(path):
        return vector_files(path)[:-1]
    if path.suffix.lower() == PICTURE_SUFFIX:
        return [path.with_suffix(WORLD_SUFFIX)]
    return [path.with_suffix(".qml")] if path.suffix.lower() in RASTER_SUFFIXES else []


def check_output(path: Path) -> None:
    """Check before any work that `write_output` supports an output.

    Raises:
        UsageError: for an unknown suffix.
    """
    if not is_vector(path) and path.suffix.lower() not in (*RASTER_SUFFIXES, PICTURE_SUFFIX):
        known = " ".join((*VECTOR_SUFFIXES, *RASTER_SUFFIXES, PICTURE_SUFFIX))
        raise UsageError(
            f"expected an output ending in one of {known}, found {path}; choose one, such as .gpkg"
        )


def write_output(
    change_map: ChangeMap,
    polygons: geopandas.GeoDataFrame | None,
    path: Path,
    creation_options: Mapping[str, str],
    layer_options: Mapping[str, str],
) -> None:
    """Write polygons or the mask, depending on the suffix.

    Args:
        change_map: with its mask made.
        polygons: of `change_polygons`; needed for vector files.
        path: see `check_output`.
        creation_options: for GDAL's COG driver.
        layer_options: for the vector driver.

    Raises:
        OutputError: if it cannot be written.
        UsageError: for options the driver does not support.
    """
    if path.suffix.lower() == PICTURE_SUFFIX:
        write_mask_picture(change_map, path)
        return
    if not is_vector(path):
        write_mask(change_map, path, creation_options, change_qml())
        return
    if polygons is None:
        raise ValueError(f"no polygons given for {path}")
    write_vector(
        polygons,
        path,
        provenance=change_map.provenance,
        layer_options=layer_options,
        pixel_coordinates=True,  # `Targets.require_crs` settled whether they are wanted
    )
