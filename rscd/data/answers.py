"""Yes/no answers: did anything change here? One per place, with an attribute ``changed``.

A place is a polygon of a vector file in any CRS, such as a cell of QGIS's "create grid" or a
parcel; or a row of a table (.csv), with its edges (columns ``left``, ``bottom``, ``right``,
``top``, in the CRS of the scene) or for a whole scene (column ``name``). ``changed`` is true or
false, yes or no, 1 or 0; places without answer are not used.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS

from rscd.base.border import border, found_in
from rscd.base.errors import DataError
from rscd.base.types import Bounds
from rscd.data.layout import image_id
from rscd.data.scene_labels import LabelLayer, LoadedPolygons, Polygons, bounds_of, crs_of, on_rows
from rscd.geo.vectors import carried

CHANGED = "changed"
EDGES = ["left", "bottom", "right", "top"]
NAME = "name"

WORDS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
}


@dataclass(frozen=True)
class Answer:
    """A place of a scene, in the CRS of its grid, and whether anything changed there."""

    place: shapely.Geometry
    changed: bool


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of a table as polygons in the CRS of the scene's own grid."""

    path: str
    places: NDArray[Any]
    changed: NDArray[Any]
    crs: CRS | None

    def within(self, bounds: Bounds, crs: CRS | None) -> LoadedPolygons:
        """The polygons in the CRS of a grid."""
        places = on_rows(carried(self.places, self.crs, crs), bounds, crs, self.path)
        return LoadedPolygons(self.path, places, self.changed)


def open_answers(path: str, grid: GeoBox, name: str) -> Polygons | Table:
    """Open a vector file or a table of answers.

    Args:
        path: of the file.
        grid: the scene's own.
        name: of the scene, for tables that name whole scenes.

    Raises:
        DataError: if a table cannot be read, or lacks a column.
    """
    if not path.lower().endswith(".csv"):
        return Polygons(path, id_field=CHANGED, role="answers")
    import pandas as pd

    with border(lambda error: _unreadable(path, error)):
        frame = pd.read_csv(path, skipinitialspace=True, dtype={NAME: str})
    wanted = EDGES if set(EDGES) <= set(frame.columns) else [NAME]
    if not {CHANGED, *wanted} <= set(frame.columns):
        raise DataError(
            f"expected columns {CHANGED} and {', '.join(EDGES)} (or {NAME}) in {path}, found "
            f"{', '.join(frame.columns)}; add them"
        )
    if wanted == [NAME]:
        frame = _of_scene(path, frame, name)
        places = np.full(len(frame), shapely.box(*bounds_of(grid)), object)
    else:
        with border(lambda error: _unreadable(path, error)):
            places = shapely.box(*frame[EDGES].to_numpy(float).T)
    return Table(path, places, frame[CHANGED].to_numpy(object), crs_of(grid))


def _of_scene(path: str, frame: Any, name: str) -> Any:
    """The rows of a table that name a scene: with its folder, or else by the file name alone.

    Other folders name other scenes, unless all rows have one, which then tells nothing apart.
    """
    texts = frame[NAME].fillna("")
    own = PurePosixPath(name).parts
    rows = [(*PurePosixPath(text).parent.parts, image_id(text)) for text in texts]
    alike = len({row[:-1] for row in rows}) == 1
    chosen = [row[-len(own) :] == own for row in rows]
    if not any(chosen):
        chosen = [row[-1] == own[-1] and (alike or len(row) == 1) for row in rows]
    found = frame[chosen]
    if len(set(_as_bool(path, found[CHANGED])) - {None}) > 1:
        raise DataError(
            f"expected one answer for {name} in {path}, found yes and no; correct the table, or "
            "write the folder before the name, as in the names of scenes"
        )
    return found


def _unreadable(path: str, error: Exception) -> DataError:
    return DataError(
        f"expected a table of answers, {found_in(Path(path), error, 'check the file')}"
    )


def answers_in(loaded: LoadedPolygons, grid: GeoBox, area: LabelLayer | None) -> list[Answer]:
    """The answered places of a scene: those whose centre it holds.

    Args:
        loaded: places in the CRS of the grid, with ``changed`` as read.
        grid: of the scene.
        area: the part of the scene that is used; None: all.

    Raises:
        DataError: for an answer that is neither yes nor no.
    """
    parts = [shapely.box(*bounds_of(grid))]
    if isinstance(area, LoadedPolygons):
        parts += [shapely.union_all(area.geometries)]
    used = shapely.intersection_all(parts)
    values = _as_bool(loaded.path, [] if loaded.ids is None else loaded.ids)
    inside = shapely.contains(used, shapely.centroid(loaded.geometries))
    return [
        Answer(shapely.intersection(place, parts[0]), changed)
        for place, changed, here in zip(loaded.geometries, values, inside, strict=True)
        if here and changed is not None
    ]


def _as_bool(path: str, values: Iterable[Any]) -> list[bool | None]:
    import pandas as pd

    texts = [None if pd.isna(value) else str(value).strip().lower() for value in values]
    odd = sorted({text for text in texts if text and text not in WORDS})
    if odd:
        raise DataError(
            f"expected {CHANGED} true or false (yes or no, 1 or 0) in {path}, found {odd[0]!r}; "
            "correct it, or leave it empty where nobody looked"
        )
    return [WORDS[text] if text else None for text in texts]
