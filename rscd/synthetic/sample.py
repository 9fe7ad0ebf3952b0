"""``write_sample``: a town as a user's files, two GeoTIFFs, with the truth beside them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from shapely import Polygon, box

from rscd.base.begun import Begun
from rscd.base.errors import OutputError
from rscd.base.files import place, remove_tree, sidecars, write_bytes, writing
from rscd.base.types import CHANGE_RGB, ShapeHW
from rscd.geo.encode import geotiff
from rscd.synthetic.towns import TownPair, plan_town, render_town
from rscd.synthetic.towns.conditions import Nuisance
from rscd.synthetic.towns.materials import LAND_COVER, LAND_COVER_COLOURS
from rscd.synthetic.towns.parts import BOTH, Building, Town, TownStyle

SAMPLE_CRS = "EPSG:32633"
SAMPLE_ORIGIN = (398_400.0, 5_822_400.0)
"""Upper left corner (easting, northing) of sample scenes that are not moved, metres."""
SAMPLE_GSD_M = 0.5
SAMPLE_STYLE = TownStyle(
    urban=0.66, dense=0.1, industrial=0.16, curvature=0.7, tree_cover=0.6, wood=0.3, field=0.35,
    evergreen=0.3, arid=0.25, river=1.0, clutter=0.5,
)  # fmt: skip
SAMPLE_CHANGE_SHARE = 0.24
PLANS_TRIED = 30

RASTERS = ("scene_t1.tif", "scene_t2.tif", "truth_mask.tif", "landcover_t1.tif", "landcover_t2.tif")
VECTORS = ("truth.geojson", "buildings_t1.geojson", "buildings_t2.geojson", "answers.geojson")
CELL_PX = 64
"""Side of the cells for which ``answers`` says whether anything changed."""


def write_sample(
    folder: Path,
    seed: int = 0,
    shape_hw: ShapeHW = (1024, 1024),
    *,
    east_m: float = 0.0,
    overwrite: bool = False,
) -> dict[str, Path]:
    """Write a synthetic scene pair with its truth.

    Args:
        folder: created if missing.
        seed: the same seed gives byte-identical files.
        shape_hw: size in pixels of half a metre.
        east_m: metres by which the scene lies east of others, so that towns do not share ground.
        overwrite: replace files of the same names; other files are never touched.

    Returns:
        Stem -> path: ``scene_t1``, ``scene_t2`` (RGB uint8), ``truth_mask`` (0/1),
        ``landcover_t1``, ``landcover_t2`` (classes in the tags and the colour table), ``truth``
        (``kind`` appeared|vanished), ``buildings_t1``, ``buildings_t2``, ``answers`` (cells of 64
        pixels, ``changed`` true|false, as somebody who looked would say). Rasters are tiled,
        deflated GeoTIFFs in EPSG:32633; the content of t2 is displaced by a fraction of a pixel, as
        in real archives, without a trace in the metadata. Vectors are RFC 7946 GeoJSON.

    Raises:
        OutputError: if a file exists and ``overwrite`` is False, or the folder is not writable.
        UsageError: for a size below one pixel.
    """
    folder = Path(folder)
    paths = {Path(name).stem: folder / name for name in (*RASTERS, *VECTORS)}
    final = list(paths.values())
    begun = Begun(tuple(final), ["sample", seed, shape_hw, east_m, overwrite])
    if not begun.before:
        _check_free(paths, overwrite)
    town = sample_town(seed, shape_hw)
    pair = render_town(town, Nuisance.moderate())
    with writing(folder / "."):
        folder.mkdir(parents=True, exist_ok=True)
    with begun.noted(), writing(folder / "."):
        # a fixed name: what a killed run leaves, the next run removes
        beside = folder / ".rscd-sample"
        remove_tree(beside)
        try:
            beside.mkdir()
            place_at = sample_transform(town.gsd_m, east_m)
            _write_rasters(beside, town, pair, place_at)
            _write_vectors(beside, town, pair, place_at)
            place([beside / path.name for path in final], final)
        finally:
            remove_tree(beside)
    return paths


def sample_town(seed: int, shape_hw: ShapeHW) -> Town:
    """The town of a sample scene: the first of a few plans that shows both kinds of change.

    A scene of a thousand pixels nearly always does; a small one often shows an area without
    construction, which makes a poor sample. Otherwise the plan with the most kinds of change is
    used.
    """
    plan = partial(plan_town, change_share=SAMPLE_CHANGE_SHARE, style=SAMPLE_STYLE)
    best = plan(seed, shape_hw, SAMPLE_GSD_M)
    for attempt in range(1, PLANS_TRIED):
        if _kinds(best) == 2:
            break
        other = plan(seed + attempt * 1_000_003, shape_hw, SAMPLE_GSD_M)
        best = max(best, other, key=_kinds)
    return replace(best, seed=seed)


def _kinds(town: Town) -> int:
    """Number of kinds of change that the image shows, at most two."""
    return len({b.dates for b in _in_image(town, town.buildings)} - {BOTH})


def _check_free(paths: dict[str, Path], overwrite: bool) -> None:
    old = (file for path in paths.values() for file in (path, *sidecars(path)) if file.exists())
    present = sorted(file.name for file in old)
    if present and not overwrite:
        folder = next(iter(paths.values())).parent
        raise OutputError(
            f"expected a folder without {present[0]}, found {len(present)} file(s) of a sample "
            f"already there in {folder}; choose another folder or add --overwrite"
        )


def sample_transform(gsd_m: float = SAMPLE_GSD_M, east_m: float = 0.0) -> Affine:
    """Pixel -> CRS of the sample scenes."""
    return Affine(gsd_m, 0.0, SAMPLE_ORIGIN[0] + east_m, 0.0, -gsd_m, SAMPLE_ORIGIN[1])


def _write_rasters(folder: Path, town: Town, pair: TownPair, place: Affine) -> None:
    tags = {"generator": "rscd sample", "seed": str(town.seed), "synthetic": "yes"}
    for index, date in enumerate(("t1", "t2")):
        _write_raster(
            folder / f"scene_{date}.tif", pair.image[index], place, {**tags, "date": date}
        )
        classes = {f"class_{value}": name for name, value in LAND_COVER.items()}
        _write_raster(
            folder / f"landcover_{date}.tif", pair.land_cover[index : index + 1], place,
            {**tags, **classes}, {k: (*rgb, 255) for k, rgb in LAND_COVER_COLOURS.items()},
        )  # fmt: skip
    meaning = {"class_0": "no change", "class_1": "change"}
    colours = {0: (0, 0, 0, 255), 1: (*CHANGE_RGB, 255)}
    _write_raster(folder / "truth_mask.tif", pair.mask, place, {**tags, **meaning}, colours)


def _write_raster(
    path: Path, bands: np.ndarray[Any, np.dtype[Any]], place: Affine, tags: dict[str, str],
    colours: dict[int, tuple[int, int, int, int]] | None = None,
) -> None:  # fmt: skip
    profile = {
        "dtype": str(bands.dtype), "count": len(bands), "crs": SAMPLE_CRS,
        "height": bands.shape[1], "width": bands.shape[2],
        "transform": place,
        "compress": "deflate", "predictor": 2 if colours is None else 1, "tiled": True,
        "blockxsize": 256, "blockysize": 256, "interleave": "pixel",
    }  # fmt: skip
    if colours is None:
        profile["photometric"] = "RGB"

    def fill(target: Any) -> None:
        target.write(bands)
        target.update_tags(**tags)
        if colours is not None:
            target.write_colormap(1, colours)

    write_bytes(path, geotiff(fill, **profile))


def _write_vectors(folder: Path, town: Town, pair: TownPair, place: Affine) -> None:
    kinds = [c.kind for c in pair.changes]
    ids = [c.building_id for c in pair.changes]
    _write_layer(
        folder / "truth.geojson", town, place, [c.polygon for c in pair.changes], ids, kind=kinds
    )
    for date, buildings in (("t1", pair.buildings_t1), ("t2", pair.buildings_t2)):
        inside = _in_image(town, buildings)
        _write_layer(
            folder / f"buildings_{date}.geojson", town, place, [b.footprint for b in inside],
            [b.id for b in inside], kind=[b.kind for b in inside],
            height_m=[round(b.height_m, 2) for b in inside],
        )  # fmt: skip

    _write_answers(folder / "answers.geojson", town, pair, place)


def _write_answers(path: Path, town: Town, pair: TownPair, place: Affine) -> None:
    from shapely.geometry import box

    height, width = town.shape_hw
    side = CELL_PX * town.gsd_m
    corners = [(r, c) for r in range(0, height, CELL_PX) for c in range(0, width, CELL_PX)]
    cells = [
        box(col * town.gsd_m, row * town.gsd_m, col * town.gsd_m + side, row * town.gsd_m + side)
        for row, col in corners
    ]
    changed = [bool(pair.mask[0, r : r + CELL_PX, c : c + CELL_PX].any()) for r, c in corners]
    _write_layer(path, town, place, cells, range(1, len(cells) + 1), changed=changed)


def _frame(town: Town) -> Polygon:
    """The outline of the image."""
    return box(0, 0, town.shape_hw[1] * town.gsd_m, town.shape_hw[0] * town.gsd_m)


def _in_image(town: Town, buildings: Sequence[Building]) -> list[Building]:
    return [b for b in buildings if b.footprint.intersects(_frame(town))]


def _write_layer(
    path: Path,
    town: Town,
    place: Affine,
    polygons: Sequence[Any],
    ids: Sequence[int],
    **columns: Sequence[Any],
) -> None:
    """Polygons of the plan, clipped to the image, as RFC 7946 GeoJSON."""
    import geopandas
    from shapely.affinity import affine_transform

    frame = _frame(town)
    cut = [
        affine_transform(p.intersection(frame), (1, 0, 0, -1, place.c, place.f)) for p in polygons
    ]
    frame_data = {"id": list(ids), **{name: list(values) for name, values in columns.items()}}
    table = geopandas.GeoDataFrame(frame_data, geometry=cut, crs=SAMPLE_CRS)
    table = table[~table.geometry.is_empty].to_crs("EPSG:4326")
    content = BytesIO()
    rules = {"RFC7946": "YES", "COORDINATE_PRECISION": 7}
    table.to_file(content, driver="GeoJSON", engine="pyogrio", layer=path.stem, **rules)
    write_bytes(path, content.getvalue())
