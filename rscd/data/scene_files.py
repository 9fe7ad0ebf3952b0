"""Scenes as plain data: which files show a place at two dates, and what is known about it."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from odc.geo.geobox import GeoBox

from rscd.base.errors import DataError, GridMismatchError
from rscd.base.files import by_stem
from rscd.base.redact import redacted
from rscd.base.types import LAYERS
from rscd.data.images import IMAGE_SUFFIXES
from rscd.geo.grid import intersection
from rscd.geo.origin import rasters_of, read_provenance
from rscd.geo.scene import ScenePair
from rscd.geo.source import inspect

log = logging.getLogger(__name__)

BESIDE = frozenset(
    {".shx", ".dbf", ".prj", ".cpg", ".sbn", ".sbx", ".qix", ".qpj", ".qmd", ".qml"}
    | {".tfw", ".pgw", ".jgw", ".wld", ".gpkg-wal", ".gpkg-shm", ".gpkg-journal"}
)
"""Suffixes of files that belong to a shapefile, a layer, a database in use or a raster of the same
name."""

MOST_NAMED = 5
"""Most rasters without partner listed in a message."""


@dataclass(frozen=True)
class Scene:
    """One place at two dates. Plain data, so that it can be written in a YAML file.

    Every path may be anything GDAL opens: a file, a VRT, the URL of a COG. If ``t1`` and ``t2`` are
    folders, their rasters are paired by name, or else by location.
    """

    t1: str = ""
    t2: str = ""
    """May be left out with ``review``, whose layer names both."""
    labels: str | None = None
    """Change between the dates: polygons (GeoPackage, GeoJSON, ...) or a raster, in any CRS."""
    buildings: tuple[str, str] | None = None
    """Instead of ``labels``: building layers at t1 and t2, polygons or rasters."""
    building_id: str | None = None
    """Attribute that names a building at both dates; see ``BuildingDifference``."""
    where: str | None = None
    """SQL condition that selects polygons by attribute, such as ``kind = 'appeared'``."""
    answers: str | None = None
    """Whether anything changed, place by place: polygons with an attribute ``changed``, or a table
    (.csv); see `rscd.data.answers`. Patches are then drawn from these places, and ``label`` is the
    answer, not counted from a mask."""
    review: str | None = None
    """Instead of labels and answers: a reviewed change layer, see `rscd.data.review_labels`.
    Patches with ``mask`` or ``label`` are drawn around its decided polygons."""
    layers: dict[str, str] | str | None = None
    """Further labels by key, such as ``vl_change``: rasters or polygons in any CRS; or the folder
    that ``rscd pseudolabel T1 T2 -o FOLDER`` filled."""
    area: str | None = None
    """Polygons of the part of the scene that is used: labels outside are 255 = ignore, and patches
    are drawn from its bounding box."""
    dates: tuple[str, str] | None = None
    """Dates of t1 and t2, such as ``2018-05-01``; None: unknown, matches any time."""
    name: str | None = None

    @property
    def title(self) -> str:
        """Name in samples, messages and files."""
        return self.name or Path(redacted(self.t1)).stem

    def layer_paths(self) -> dict[str, str]:
        """``layers`` by key."""
        if not isinstance(self.layers, str):
            return dict(self.layers or {})
        name = f"{pair_stem(self.t1, self.t2)}.tif"
        return {key: str(Path(self.layers) / key / name) for key in LAYERS}


def pair_stem(t1: str, t2: str) -> str:
    """Name of files made for two rasters: their stems, or one if they are equal."""
    return "_".join(dict.fromkeys(Path(redacted(path)).stem for path in (t1, t2)))


def expand(scene: Scene) -> list[Scene]:
    """The scenes of two folders: rasters paired by name, or else by location.

    Labels, buildings, layers by key, answers and area may be folders as well, with files named like
    those of t1; or one file for all. A scene of files is returned unchanged.

    Raises:
        DataError: if only one date is a folder, a folder is empty, or nothing overlaps.
    """
    scene = _named(scene)
    folders = [Path(path).is_dir() for path in (scene.t1, scene.t2)]
    if not any(folders):
        return [scene]
    if not all(folders):
        raise DataError(
            f"expected t1 and t2 both as files or both as folders, found {scene.t1} and "
            f"{scene.t2}; give the same kind for both"
        )
    first, second = _rasters(scene.t1), _rasters(scene.t2)
    if first.keys() == second.keys():
        return [_part(scene, name, first[name], second[name]) for name in first]
    return _by_place(scene, first, second)


def _named(scene: Scene) -> Scene:
    """The scene with its rasters, which a reviewed layer may name."""
    if scene.review is not None and (scene.labels, scene.buildings, scene.answers) != (None,) * 3:
        raise DataError(
            f"{scene.review}: expected review alone, found labels, buildings or answers as well; "
            "give them as another scene"
        )
    if scene.t1 and scene.t2:
        return scene
    if scene.t1 or scene.t2 or scene.review is None:
        raise DataError(
            f"expected t1 and t2 of a scene, found {scene.t1 or scene.t2 or 'none'}; name both, or "
            "review: LAYER, which names them"
        )
    if not Path(scene.review).exists():
        raise DataError(
            f"expected a reviewed change layer, found no file at {scene.review}; name one with "
            "--review, or review: of the scene"
        )
    provenance = read_provenance(Path(scene.review))
    found = rasters_of(scene.review, provenance)
    if (provenance.get("parameters") or {}).get("register", "off") != "off":
        log.warning(
            "%s was made with --register; here t2 is read as it is, beside t1 by its own position",
            scene.review,
        )
    name = scene.name or Path(scene.review).stem
    return replace(scene, t1=found["t1"], t2=found["t2"], name=name)


def say_read_otherwise(scene: Scene, pair: ScenePair, src_nodata: float | None) -> None:
    """Warn where a reviewed layer was made from other bands or nodata than are read now.

    Args:
        scene: with ``review``.
        pair: its rasters as they are read.
        src_nodata: nodata value given for all images.
    """
    provenance = read_provenance(Path(scene.review or ""))
    parameters = provenance.get("parameters") or {}
    made = parameters.get("src_nodata")
    differ = [
        f"bands {own['bands']} of {date} (here {list(source.bands)}: set bands)"
        for date, source in (("t1", pair.t1), ("t2", pair.t2))
        if isinstance(own := provenance.get(date), dict)
        and own.get("bands", list(source.bands)) != list(source.bands)
    ]
    if "src_nodata" in parameters and not _same_number(made, src_nodata):
        differ.append(f"nodata {_said(made)} (here {_said(src_nodata)}: set src_nodata)")
    if differ:
        log.warning("%s was made from %s", scene.review, " and ".join(differ))


def _same_number(one: float | None, other: float | None) -> bool:
    """Whether two values are the same, NaN among them."""
    if one is None or other is None:
        return one is other
    return one == other or (math.isnan(one) and math.isnan(other))


def _said(nodata: float | None) -> str:
    return "as the files say" if nodata is None else f"{nodata:g}"


def _rasters(folder: str) -> dict[str, str]:
    files = by_stem(Path(folder), IMAGE_SUFFIXES | {".jp2"})
    if not files:
        raise DataError(
            f"{folder}: no rasters (.tif, .vrt, .jp2, ...); give the folder of one date"
        )
    return {name: str(path) for name, path in files.items()}


def _by_place(scene: Scene, first: Mapping[str, str], second: Mapping[str, str]) -> list[Scene]:
    grids = {path: inspect("t2", path, None, None).grid for path in second.values()}
    found = []
    alone, met = [], set()
    for name, path in first.items():
        grid = inspect("t1", path, None, None).grid
        partners = [other for other, later in second.items() if _overlap(grid, grids[later])]
        if not partners:
            alone.append(path)
        met |= set(partners)
        found += [_part(scene, f"{name}+{other}", path, second[other], name) for other in partners]
    if not found:
        raise DataError(
            f"{scene.t1} and {scene.t2}: the rasters have no common names or places; give the two "
            "dates of one place"
        )
    alone += [path for other, path in second.items() if other not in met]
    if alone:
        log.warning(
            "skipped, because the other date has no raster there: %s%s",
            ", ".join(alone[:MOST_NAMED]),
            f" and {len(alone) - MOST_NAMED} more" if len(alone) > MOST_NAMED else "",
        )
    return found


def _overlap(grid: GeoBox, other: GeoBox) -> bool:
    try:
        intersection(grid, other)
    except GridMismatchError:
        return False
    return True


def _part(scene: Scene, name: str, t1: str, t2: str, stem: str | None = None) -> Scene:
    stem = stem or name

    def of_name(path: str | None) -> str | None:
        if path is None or not Path(path).is_dir():
            return path
        named = (p for p in Path(path).iterdir() if p.stem == stem)
        found = sorted(p for p in named if p.suffix.lower() not in BESIDE)
        if len(found) != 1:
            raise DataError(
                f"{path}: expected one file named {stem}.*, found {len(found)}; label every raster "
                "of t1, or give one file for all"
            )
        return str(found[0])

    buildings, layers = scene.buildings, scene.layers
    if isinstance(layers, Mapping):
        layers = {key: of_name(path) or "" for key, path in layers.items()}
    if buildings is not None:
        buildings = (of_name(buildings[0]) or "", of_name(buildings[1]) or "")
    return replace(
        scene,
        t1=t1,
        t2=t2,
        labels=of_name(scene.labels),
        buildings=buildings,
        answers=of_name(scene.answers),
        layers=layers,
        area=of_name(scene.area),
        name=name if scene.name is None else f"{scene.name}/{name}",
    )
