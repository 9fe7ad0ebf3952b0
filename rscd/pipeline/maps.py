"""From two rasters to files: inference followed by export."""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from rscd.base.arguments import check_kind
from rscd.base.errors import OutputError, RemoteError, RscdError
from rscd.base.types import DateName, Progress, silent
from rscd.export.atomic import output_error
from rscd.export.flow import DISSIMILARITY, FLOW, write_field
from rscd.export.outputs import write_output
from rscd.export.preview import write_preview
from rscd.export.project import write_project
from rscd.export.raster import write_probability
from rscd.export.style import probability_qml
from rscd.export.targets import Targets
from rscd.export.vector import change_polygons
from rscd.geo.area import Area
from rscd.geo.arrays import Image, as_files
from rscd.geo.changemap import ChangeMap
from rscd.geo.polygons import Polygons
from rscd.geo.register import doubt_at, field_boxes, usual_error
from rscd.geo.registration import sample_boxes, warn_of_shift, widened
from rscd.geo.scene import ScenePair
from rscd.geo.source import close_handles
from rscd.geo.tiles import Box
from rscd.geo.traffic import bytes_of
from rscd.inference.flow import FlowModel, scene_field
from rscd.inference.journal import Journal, finished, open_journal
from rscd.inference.kinds import Standing
from rscd.inference.misreg import misreg_reach, misregistration
from rscd.inference.near_infrared import warn_of_near_infrared
from rscd.inference.predictor import Predictor
from rscd.inference.tiled import (
    Mapper,
    fit_model,
    measure_seam,
    needs_statistics,
    predict_scene,
    scene_tiles,
    thread_mapper,
)
from rscd.pipeline.provenance import check_unchanged
from rscd.pipeline.run import DEFAULTS, Options, Run, options_of, registered, resolve
from rscd.pipeline.standing import object_polygons, write_objects

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """Summary of a run; plain data, see ``--json``."""

    outputs: list[str]
    n_polygons: int | None
    """None if no vector output was requested."""
    changed_pixels: int
    valid_pixels: int
    changed_share: float
    """Percentage of the valid pixels."""
    area_m2: float | None
    """Area of the polygons written; without vector output that of the changed pixels, as
    ``changed_area_m2``. None if the pixel size is unknown."""
    changed_area_m2: float | None
    """Area of all changed pixels of the mask, including those of omitted polygons; None if the
    pixel size is unknown."""
    model: str
    threshold: float
    alignment: dict[str, str]
    shift: dict[str, float] | None
    """Shift of t2 relative to t1 in pixels as they were compared, see
    `rscd.geo.registration.Shift`; None if it cannot be determined."""
    seam: dict[str, float] | None
    """Error at tile edges, see `rscd.inference.tiled.Seam`; None if there is none."""
    seconds: float
    resumed: bool
    objects_t1: int | None = None
    """Buildings written that stand at t1; None when they were not asked for."""
    objects_t2: int | None = None
    registration: dict[str, Any] | None = None
    """How one date was moved before, see `rscd.geo.register.register`; None: it was not asked
    for."""


def open_pair(
    t1: Image,
    t2: Image,
    options: Options | None = None,
    area: Area | None = None,
    *,
    gsd_m: float | None = None,
    transform: Affine | None = None,
    crs: Any = None,
) -> ScenePair:
    """Two rasters on one grid, with the options of a run, cropped to an area of interest.

    What is in memory is written once, strip by strip, to a temporary folder that lives as long as
    the pair does.

    Args:
        t1: the earlier date: path, address, STAC item, open rasterio dataset, xarray.DataArray of
            (band, y, x) or (y, x) with its grid, or NumPy array (C,H,W) or (H,W).
        t2: the later date, of any of these.
        options: of these, ``align``, ``bands`` and ``src_nodata`` count; None: the usual ones.
        area: of interest; None: all that both dates cover.
        gsd_m: side of a pixel in metres, for images without georeferencing; networks made for one
            resolution see the scene at it.
        transform: from (column, row) to the CRS, of NumPy arrays; None: pictures without place.
        crs: of NumPy arrays: EPSG code, WKT, or an object of pyproj or rasterio.

    Raises:
        RscdError: see `ScenePair.open`, `Area.on` and `rscd.geo.arrays.as_files`.
    """
    options = options_of(options)
    if area is not None:
        check_kind(area, Area, "area")
    (path1, path2), kept = as_files((t1, t2), transform, crs)
    pair = ScenePair.open(
        path1,
        path2,
        align=options.align,
        bands=options.bands,
        src_nodata=options.src_nodata,
        gsd_m=gsd_m,
    )
    pair = replace(pair, t1=replace(pair.t1, kept=kept), t2=replace(pair.t2, kept=kept))
    pair = options.sized(pair)
    if area is None:
        return pair
    geometry, is_box = area.on(pair.grid)
    return pair.crop(geometry, mask=not is_box)


def predict(
    pair: ScenePair,
    outputs: Sequence[str | Path],
    options: Options = DEFAULTS,
    *,
    prob: str | Path | None = None,
    preview: str | Path | None = None,
    flow: str | Path | None = None,
    dissimilarity: str | Path | None = None,
    objects: Mapping[DateName, str | Path | None] | None = None,
    project: str | Path | None = None,
    mapper: Mapper | None = None,
    progress: Progress = silent,
) -> Result:
    """Find what changed and write it.

    Args:
        pair: two dates on one grid.
        outputs: files to write, or addresses to upload them to; the suffix is the format, ``.json``
            a STAC item of all.
        options: see `Options`.
        prob: GeoTIFF for the probabilities.
        preview: picture (.png, .jpg) of t1, t2 and the change outlined.
        flow: GeoTIFF for the flow from t2 to t1, of models that give it.
        dissimilarity: GeoTIFF or PNG of how little the dates look alike along the flow.
        objects: vector files for the buildings that stand at a date, by date, of models that find
            them.
        project: QGIS project (.qgz) of both dates and of what is written.
        mapper: how blocks of tiles are carried out; default threads of this process.
        progress: progress callback.

    Raises:
        RscdError: anything the user must fix; no new output exists then.
    """
    targets = Targets.of(outputs, prob, preview, flow, objects, dissimilarity, project)
    run = resolve(pair, targets, options)
    return carry_out(run, mapper=mapper, progress=progress)


def carry_out(run: Run, *, mapper: Mapper | None = None, progress: Progress = silent) -> Result:
    """Find what changed and write it, for a run whose options are resolved; see `predict`."""
    started = time.monotonic()
    run = _registered(run)
    run.targets.prepare()
    files = run.targets.all
    if (past := finished(run.folder, run.identity, files)) is not None:
        log.info("all of it had been written before this run")
        run.targets.clear()
        return Result(**past)
    try:
        with (
            rasterio.Env(GDAL_CACHEMAX=run.load.gdal_cache),
            open_journal(run.folder, run.identity) as journal,
        ):
            if not run.overwrite:
                run.targets.check_new(journal.published())
            with journal.explaining(files[0]):
                found = _compute(run, journal, mapper, progress)
                check_unchanged(run.pair, run.provenance)
                run.targets.send()
            result = Result(
                **found,
                outputs=run.targets.names,
                model=run.model.name,
                alignment=run.pair.alignment,
                registration=run.registration,
                seconds=round(time.monotonic() - started, 3),
                resumed=journal.resumed,
            )
            journal.finish(files, asdict(result))
    except (OutputError, RemoteError):  # what was computed is kept
        if not run.folder.exists():
            run.targets.clear()
        raise
    except RscdError:
        shutil.rmtree(run.folder, ignore_errors=True)
        run.targets.clear()
        raise
    except OSError as error:
        raise output_error(files[0], error) from error
    finally:
        close_handles()
    run.targets.clear()
    return result


def _registered(run: Run) -> Run:
    try:
        return registered(run)
    finally:
        close_handles()


def plan(run: Run) -> dict[str, Any]:
    """What a run would do, without reading a pixel: plain data, see ``--dry-run``.

    ``size`` is (width, height) in pixels, ``read_bytes`` what is fetched of each file if it is
    remote (None where its format does not tell), ``memory_bytes`` an estimate in addition to what
    the process uses already.
    """
    height, width = run.pair.shape_hw
    load, tiling = run.load, run.model.tiling
    return {
        "model": run.model.name,
        "alignment": run.pair.alignment,
        "register": run.parameters["register"],
        "size": (width, height),
        "tiles": len(scene_tiles(run.pair, load.tile_size, tiling)),
        "tile_size": load.tile_size,
        "batch_size": load.batch_size,
        "workers": load.workers,
        "read_bytes": _read_bytes(run),
        "scratch_bytes": run.scratch_bytes,
        "memory_bytes": load.nbytes(run.pair.n_bands, tiling),
    }


def _read_bytes(run: Run) -> dict[str, int | None]:
    """Size of the blocks of either file that a run looks at, each counted once."""
    pair, tiling = run.pair, run.model.tiling
    height, width = pair.whole.shape_hw
    row, col = pair.window.corner
    scene = Box(0, 0, height, width)
    if needs_statistics(run.model):
        boxes = [scene]
    else:
        tiles = scene_tiles(pair, run.load.tile_size, tiling)
        looked = (tile for tile in tiles if pair.inside(tile.write).any())
        boxes = [tile.read.moved(row, col).common(scene) for tile in looked]
        sampled = [] if tiling.whole_pictures else sample_boxes((height, width))
        sampled += field_boxes((height, width)) if run.parameters["register"] == "local" else []
        boxes += [widened(box).common(scene) for box in sampled]
    return {
        source.date: bytes_of(source, offset, grid, boxes) for source, offset, grid in pair.places
    }


def _compute(
    run: Run, journal: Journal, mapper: Mapper | None, progress: Progress
) -> dict[str, Any]:
    """Predict and write; what was found, by the names of `Result`."""
    _rehearse(run, journal.folder)
    pair = run.pair
    tile_size = journal.tile_size or run.load.tile_size
    measured = None if run.model.tiling.whole_pictures else warn_of_shift(pair)
    shift = None if measured is None else {k: round(v, 2) for k, v in asdict(measured).items()}
    warn_of_near_infrared(pair, run.card)
    if journal.resumed:
        log.info("resuming the interrupted run in %s", journal.folder)
    with thread_mapper(run.load.workers) as threads:
        # statistics are gathered here: pixels that others read would have to travel
        predictor: Predictor = fit_model(pair, run.model, threads, progress)
        mapped = threads if mapper is None else mapper
        threshold = predictor.threshold if run.threshold is None else run.threshold
        provenance = run.provenance | {"shift": shift, "threshold": threshold}
        reach_px = None
        if run.parameters["misreg"] is not None:
            reach_px = misreg_reach(
                run.parameters["misreg"], usual_error(run.registration, measured)
            )
            provenance |= {"misreg_px": reach_px}
        change_map = ChangeMap(journal.folder, pair.grid, threshold, provenance)
        margin = run.kind_margin
        standing = None if margin is None else Standing.beside(change_map, margin)
        predict_scene(
            pair,
            predictor,
            change_map,
            journal,
            tile_size=tile_size,
            batch_size=run.load.batch_size,
            mapper=mapped,
            progress=progress,
            standing=standing,
        )
        seam = measure_seam(pair, predictor, change_map, tile_size, mapped)
        measures: dict[str, Callable[[Polygons], Any]] = {}
        if run.registration is not None:
            measures["reg_err_px"] = partial(_registration_error, run)
        if reach_px is not None:
            moved: DateName = "t1" if run.parameters["align"] == "t2" else "t2"
            measures["misreg"] = partial(
                misregistration,
                pair,
                predictor,
                change_map,
                date=moved,
                reach_px=reach_px,
                tile_size=tile_size,
                batch_size=run.load.batch_size,
                mapper=mapped,
                progress=progress,
            )
        written = _export(run, change_map, standing, journal, tile_size, progress, measures)
    return written | {"shift": shift, "seam": None if seam is None else asdict(seam)}


def _registration_error(run: Run, polygons: Polygons) -> Any:
    """(N,) doubt of the registration in pixels, where each polygon lies."""
    row, col = run.pair.window.corner
    points = np.add(shapely.get_coordinates(shapely.point_on_surface(polygons)), (col, row))
    return doubt_at(run.registration or {}, run.pair.whole.shape_hw, points)


def _rehearse(run: Run, folder: Path) -> None:
    """Write every output once for one pixel of the scene: wrong options show before the work."""
    scene = run.pair.grid
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        tiny = ChangeMap(Path(scratch), GeoBox((1, 1), scene.affine, scene.crs), 0.5, {})
        tiny.prob.create()
        tiny.threshold_mask()
        polygons = change_polygons(tiny.mask.path, None, run.pair.ground)
        for path in run.targets.outputs:
            rehearsed = Path(scratch) / path.name
            write_output(tiny, polygons, rehearsed, run.creation_options, run.layer_options)
        for date, path in run.targets.objects.items():
            rehearsed = Path(scratch) / f"{date}-{path.name}"
            write_objects(polygons, rehearsed, date, {}, run.layer_options)
        if run.targets.prob is not None:
            rehearsal = Path(scratch) / f"prob-{run.targets.prob.name}"
            write_probability(tiny, rehearsal, run.creation_options, "")


def _export(
    run: Run,
    change_map: ChangeMap,
    standing: Standing | None,
    journal: Journal,
    tile_size: int,
    progress: Progress,
    measures: Mapping[str, Callable[[Polygons], Any]],
) -> dict[str, Any]:
    pair, targets = run.pair, run.targets
    progress("writing", 0, len(targets.all))
    changed, valid = change_map.threshold_mask()
    if not valid:  # detectors refuse a whole scene of these; a network, or an area of it, gets here
        log.warning(
            "no pixel has data at both dates: nothing was compared; check nodata and masks, and "
            "the area of interest"
        )
    changed_m2 = change_map.changed_area_m2(pair.ground)
    changed_m2 = None if changed_m2 is None else round(changed_m2, 2)
    polygons = None
    if targets.has_vectors:
        polygons = change_polygons(
            change_map.mask.path,
            change_map.prob.path,
            min_score=run.min_score,
            t1=run.days["t1"],
            t2=run.days["t2"],
            kinds_of=None if standing is None else standing.kinds,
            measures=measures,
            **run.outlining,
        )
    date_of = {path: date for date, path in targets.objects.items()}
    objects: dict[str, int] = {}
    for written, path in enumerate(targets.all, 1):
        journal.publish(path)
        if path == targets.prob:
            write_probability(change_map, path, run.creation_options, probability_qml())
        elif path == targets.preview:
            write_preview(pair, change_map, path, polygons)
        elif path in (targets.flow, targets.dissimilarity):
            # that the model has both was settled by `resolve`
            model = cast(FlowModel, run.model)
            field, bands = (
                (model.flow, FLOW) if path == targets.flow else (model.dissimilarity, DISSIMILARITY)
            )
            pieces = scene_field(pair, field, model.tiling, tile_size)
            write_field(pair.grid, pieces, path, bands, change_map.provenance)
        elif path == targets.item:
            from rscd.export.stac import result_item, write_item  # imports pystac

            about = change_map.provenance
            item = result_item(path.stem, pair.grid, run.days, targets.files, about, path.parent)
            write_item(path, item)
        elif path == targets.project:
            write_project(pair, targets, run.days, path.stem)
        elif (date := date_of.get(path)) is not None:
            # that the model finds buildings was settled by `resolve`
            stands = cast(Standing, standing)
            table = object_polygons(change_map, stands, date, run.days[date], run.outlining)
            write_objects(table, path, date, change_map.provenance, run.layer_options)
            objects[f"objects_{date}"] = len(table)
        else:
            write_output(change_map, polygons, path, run.creation_options, run.layer_options)
        progress("writing", written, len(targets.all))
    return {
        "n_polygons": None if polygons is None else len(polygons),
        "changed_pixels": changed,
        "valid_pixels": valid,
        "changed_share": changed / valid if valid else 0.0,
        "area_m2": changed_m2
        if polygons is None or changed_m2 is None
        else round(float(polygons["area_m2"].sum()), 2),
        "changed_area_m2": changed_m2,
        "threshold": change_map.threshold,
        **objects,
    }
