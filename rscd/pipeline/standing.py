"""The buildings that stand at either date, as files beside the changes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geopandas import GeoDataFrame

from rscd.base.types import DateName, Provenance
from rscd.export.style import object_qml
from rscd.export.vector import STANDING, change_polygons, objects_layer, write_vector
from rscd.geo.changemap import ChangeMap
from rscd.inference.kinds import FULL, STANDING_FROM, Standing

CLASS = "building"


def object_polygons(
    change_map: ChangeMap,
    standing: Standing,
    date: DateName,
    day: str | None,
    outlining: Mapping[str, Any],
) -> GeoDataFrame:
    """What stands at a date, as a table like that of the changes.

    Args:
        change_map: with its mask made.
        standing: found everywhere.
        date: whose buildings.
        day: ISO date of the image, for the column of that date; that of the other stays empty.
        outlining: ground, least area and shape, see `rscd.pipeline.run.Run.outlining`.

    Returns:
        One row per 4-connected region of building pixels.
    """
    return change_polygons(
        standing.mask(date, change_map.mask).path,
        standing.of(date).path,
        class_name=CLASS,
        kind=STANDING,
        full=FULL,
        t1=day if date == "t1" else None,
        t2=day if date == "t2" else None,
        **outlining,
    )


def write_objects(
    table: GeoDataFrame,
    path: Path,
    date: DateName,
    provenance: Provenance,
    layer_options: Mapping[str, str],
) -> None:
    """Write a table of `object_polygons`, with its own style and layer name.

    Raises:
        RscdError: see `rscd.export.vector.write_vector`.
    """
    write_vector(
        table,
        path,
        provenance=provenance | {"objects": {"date": date, "threshold": STANDING_FROM}},
        layer_options=layer_options,
        pixel_coordinates=True,  # `Targets.require_crs` settled whether they are wanted
        style=object_qml(),
        layer=objects_layer(date),
    )
