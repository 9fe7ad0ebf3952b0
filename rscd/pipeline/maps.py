"""From two rasters to files: where inference and export meet."""

import hashlib
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import rasterio
from odc.geo.geobox import GeoBox

from rscd.base.errors import OutputError, RscdError, UsageError
from rscd.base.redact import mark, redacted_data
from rscd.base.types import Align, DateName, Progress, Provenance, silent
from rscd.export.atomic import output_error
from rscd.export.flow import write_flow
from rscd.export.outputs import write_output
from rscd.export.preview import write_preview
from rscd.export.raster import write_probability
from rscd.export.style import probability_qml
from rscd.export.targets import Targets
from rscd.export.vector import change_polygons
from rscd.geo.area import Area
from rscd.geo.changemap import ChangeMap
from rscd.geo.dates import dates_of
from rscd.geo.grid import is_georeferenced, middle, pixel_size_m
from rscd.geo.scene import ScenePair
from rscd.geo.source import close_handles
from rscd.inference.cores import network_threads, usable_cores
from rscd.inference.flow import FlowModel, check_flow, scene_flow
from rscd.inference.journal import Journal, finished, open_journal
from rscd.inference.kinds import (
    BYTES_PER_PIXEL,
    MARGIN,
    MASK_BYTES_PER_PIXEL,
    check_finds_buildings,
    find_standing,
)
from rscd.inference.memory import GDAL_CACHE, Load, fit_load
from rscd.inference.models import scene_model
from rscd.inference.near_infrared import warn_of_near_infrared
from rscd.inference.predictor import Model, Predictor, least_object, tile_side
from rscd.inference.registration import warn_of_shift
from rscd.inference.shipped import SceneFacts
from rscd.inference.tiled import (
    Mapper,
    Seam,
    fit_model,
    measure_seam,
    predict_scene,
    scene_tiles,
    thread_mapper,
)
from rscd.pipeline.provenance import describe_pair
from rscd.pipeline.standing import object_polygons, write_objects

MAX_WORKERS = 8
"""More threads than this wait for the disk and for each other."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What `predict` computes and how; the command line's options by the same names."""

    model: str | None = None
    """Name or weights file; None takes `rscd.inference.shipped.default_model`."""
    msi: str | None = None
    """Scales at which a network's maps are averaged, see `rscd.inference.views`."""
    tta: str | None = None
    """Scales at which a network's logits are averaged; flipped as well, as with ``msi``."""
    threshold: float | None = None
    """Probability at or above which a pixel is change; None takes the model's automatic one."""
    min_area_m2: float | None = None
    """Polygons below this area are left out; None takes the model's own where pixels have a known
    size."""
    min_score: float | None = None
    """Polygons below this score are left out; None takes the model's own, which belongs to its own
    threshold: with another ``threshold`` all are kept."""
    simplify_m: float = 0.0
    """Tolerance of polygon simplification in metres."""
    regularize: bool | None = None
    """Whether polygons get right angles; None takes what the model's card says, unless they are
    simplified."""
    align: Align = "t1"
    bands: tuple[int, ...] | None = None
    src_nodata: float | None = None
    t1_date: str | None = None
    """ISO date of the earlier image for the column t1; None takes the file's TIFFTAG_DATETIME."""
    t2_date: str | None = None
    """The same of the later image."""
    gsd_m: float | None = None
    """Side of a pixel in metres, for images without georeferencing; networks made for one
    resolution see the scene at it."""
    pixel_coordinates: bool = False
    """Allow vector outputs in pixels where there is no CRS."""
    tile_size: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    device: str = "auto"
    max_memory: int | None = None
    """Bytes."""
    overwrite: bool = False
    creation_options: Mapping[str, str] = field(default_factory=dict)
    layer_options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a run would do: for ``--dry-run`` and for provenance."""

    model: str
    alignment: dict[str, str]
    size: tuple[int, int]
    """Width, height in pixels."""
    tiles: int
    tile_size: int
    batch_size: int
    workers: int
    scratch_bytes: int
    memory_bytes: int
    """Estimate beside what the process holds already."""


@dataclass(frozen=True)
class Result:
    """What a run did; plain data, see ``--json``."""

    outputs: list[str]
    n_polygons: int | None
    """None when no vector output was asked for."""
    changed_pixels: int
    valid_pixels: int
    changed_share: float
    """Of the valid pixels."""
    area_m2: float | None
    """Of the polygons written; without vector output of the changed pixels, as
    ``changed_area_m2``. None when the pixel size is unknown."""
    changed_area_m2: float | None
    """Of all changed pixels of the mask, those of polygons that are left out included; None when
    the pixel size is unknown."""
    model: str
    threshold: float
    alignment: dict[str, str]
    shift: dict[str, float] | None
    """Where t2 lies against t1 in pixels, see `rscd.inference.registration.Shift`; None where it
    cannot be told."""
    seam: dict[str, float] | None
    """Error at tile edges, see `rscd.inference.tiled.Seam`; None where there is none."""
    seconds: float
    resumed: bool
    objects_t1: int | None = None
    """Buildings written that stand at t1; None when they were not asked for."""
    objects_t2: int | None = None


def open_pair(
    t1: str | Path, t2: str | Path, options: Options = Options(), area: Area | None = None
) -> ScenePair:
    """Two rasters on one grid, with the options of a run, cropped to an area of interest."""
    pair = ScenePair.open(
        t1, t2, align=options.align, bands=options.bands, src_nodata=options.src_nodata
    )
    if area is None:
        return pair
    geometry, is_box = area.on(pair.grid)
    return pair.crop(geometry, mask=not is_box)


def predict(
    pair: ScenePair,
    outputs: Sequence[str | Path],
    options: Options = Options(),
    *,
    prob: str | Path | None = None,
    preview: str | Path | None = None,
    flow: str | Path | None = None,
    objects: Mapping[DateName, str | Path | None] | None = None,
    mapper: Mapper | None = None,
    progress: Progress = silent,
) -> Result:
    """Find what changed and write it.

    Args:
        pair: two dates on one grid.
        outputs: files to write; the suffix is the format.
        options: see `Options`.
        prob: GeoTIFF for the probabilities.
        preview: picture (.png, .jpg) of t1, t2 and the change outlined.
        flow: GeoTIFF for the flow from t2 to t1, of models that give it.
        objects: vector files for the buildings that stand at a date, by date, of models that find
            them.
        mapper: how blocks of tiles are carried out; default threads of this process.
        progress: told what is done.

    Raises:
        RscdError: anything the user must fix; no output exists then that did not before.
    """
    started = time.monotonic()
    options = dated(pair, options)
    targets = Targets.of(outputs, prob, preview, flow, objects)
    check_targets(pair, targets, options)
    model = _model(pair, options)
    _check_model(pair, model, targets)
    load = _load(pair, model, options)
    provenance = _provenance(pair, model, options)
    folder = targets.all[0].with_name(f".{targets.all[0].name}.rscd")
    identity = _identity(pair, provenance, options)
    if (past := finished(folder, identity, targets.all)) is not None:
        log.info("all of it had been written before this run")
        return Result(**past)
    try:
        with (
            rasterio.Env(GDAL_CACHEMAX=load.gdal_cache),
            open_journal(folder, identity) as journal,
        ):
            if not options.overwrite:
                targets.check_new(journal.published())
            with journal.explaining(targets.all[0]):
                _rehearse(journal.folder, pair.grid, targets, options)
                load = replace(load, tile_size=journal.tile_size or load.tile_size)
                shift = None if model.tiling.whole_pictures else warn_of_shift(pair)
                warn_of_near_infrared(pair, model.card())
                shifted = (
                    None if shift is None else {k: round(v, 2) for k, v in asdict(shift).items()}
                )
                computed = provenance | {"shift": shifted}
                threads = thread_mapper(load.workers) if mapper is None else nullcontext(mapper)
                with threads as run:
                    change_map, seam, predictor = _predict(
                        pair, model, journal, computed, options, load, run, progress
                    )
                    exported = _export(
                        pair,
                        change_map,
                        model,
                        predictor,
                        targets,
                        load,
                        journal,
                        options,
                        run,
                        progress,
                    )
            result = Result(
                **exported,
                outputs=[str(path) for path in targets.all],
                model=model.name,
                alignment=pair.alignment,
                shift=shifted,
                seam=None if seam is None else asdict(seam),
                seconds=round(time.monotonic() - started, 3),
                resumed=journal.resumed,
            )
            journal.finish(targets.all, asdict(result))
    except OutputError:
        raise
    except RscdError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except OSError as error:
        raise output_error(targets.all[0], error) from error
    finally:
        close_handles()
    return result


def dated(pair: ScenePair, options: Options) -> Options:
    """Options with the dates of the images: those given, else those the files carry.

    Raises:
        UsageError: one that is no date, or t1 after t2.
    """
    days = dates_of((options.t1_date, options.t2_date), (pair.t1.day, pair.t2.day))
    told = [
        f"{date} {day}"
        for date, day, given in zip(
            ("t1", "t2"), days, (options.t1_date, options.t2_date), strict=True
        )
        if day is not None and given is None
    ]
    if told:
        log.info("dates of the files (TIFFTAG_DATETIME): %s", ", ".join(told))
    t1, t2 = (
        given if given is not None or day is None else day.isoformat()
        for given, day in zip((options.t1_date, options.t2_date), days, strict=True)
    )
    return replace(options, t1_date=t1, t2_date=t2)


def _rehearse(folder: Path, scene: GeoBox, targets: Targets, options: Options) -> None:
    """Write every output once for one pixel of the scene: wrong options show before the work."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        grid = GeoBox((1, 1), scene.affine, scene.crs)
        tiny = ChangeMap(Path(scratch), grid, 0.5, {})
        tiny.prob.create()
        tiny.threshold_mask()
        polygons = change_polygons(tiny.mask.path, None, grid.crs, grid.affine)
        for path in targets.outputs:
            _write(tiny, polygons, Path(scratch) / path.name, options)
        for date, path in targets.objects.items():
            rehearsed = Path(scratch) / f"{date}-{path.name}"
            write_objects(polygons, rehearsed, date, {}, options.layer_options)
        if targets.prob is not None:
            rehearsal = Path(scratch) / f"prob-{targets.prob.name}"
            write_probability(tiny, rehearsal, options.creation_options, "")


def _write(change_map: ChangeMap, polygons: Any, path: Path, options: Options) -> None:
    write_output(
        change_map,
        polygons,
        path,
        creation_options=options.creation_options,
        layer_options=options.layer_options,
        # whether pixels are wanted was settled by `Targets.check_formats`
        pixel_coordinates=True,
    )


def plan(pair: ScenePair, options: Options, targets: Targets | None = None) -> Plan:
    """What `predict` would do, without reading a pixel.

    Raises:
        RscdError: a model that cannot be used, or cannot give what ``targets`` want.
    """
    model = _model(pair, options)
    if targets is not None:
        _check_model(pair, model, targets)
    load = _load(pair, model, options)
    height, width = pair.shape_hw
    return Plan(
        model=model.name,
        alignment=pair.alignment,
        size=(width, height),
        tiles=len(scene_tiles(pair, load.tile_size, model.tiling)),
        tile_size=load.tile_size,
        batch_size=load.batch_size,
        workers=load.workers,
        scratch_bytes=_scratch_bytes(pair, objects=bool(targets and targets.objects)),
        memory_bytes=load.nbytes(pair.n_bands, model.tiling),
    )


def _predict(
    pair: ScenePair,
    model: Model,
    journal: Journal,
    provenance: Provenance,
    options: Options,
    load: Load,
    mapper: Mapper,
    progress: Progress,
) -> tuple[ChangeMap, Seam | None, Predictor]:
    if journal.resumed:
        log.info("going on with the interrupted run in %s", journal.folder)
    predictor: Predictor = fit_model(pair, model, mapper, progress)
    threshold = predictor.threshold if options.threshold is None else options.threshold
    change_map = ChangeMap(
        journal.folder, pair.grid, threshold, provenance | {"threshold": threshold}
    )
    predict_scene(
        pair,
        predictor,
        change_map,
        journal,
        tile_size=load.tile_size,
        batch_size=load.batch_size,
        mapper=mapper,
        progress=progress,
    )
    seam = measure_seam(pair, predictor, change_map, load.tile_size, mapper)
    return change_map, seam, predictor


def _export(
    pair: ScenePair,
    change_map: ChangeMap,
    model: Model,
    predictor: Predictor,
    targets: Targets,
    load: Load,
    journal: Journal,
    options: Options,
    mapper: Mapper,
    progress: Progress,
) -> dict[str, Any]:
    progress("writing", 0, len(targets.all))
    changed, valid = change_map.threshold_mask()
    changed_m2 = change_map.changed_area_m2(options.gsd_m)
    changed_m2 = None if changed_m2 is None else round(changed_m2, 2)
    polygons = standing = None
    if targets.has_vectors or targets.objects:
        margin = model.card().get(MARGIN)
        standing = find_standing(
            pair,
            predictor,
            change_map,
            margin,
            load.tile_size,
            mapper,
            progress,
            everywhere=bool(targets.objects),
        )
    if targets.has_vectors:
        kinds_of = None if standing is None else standing.kinds
        polygons = _polygons(pair, change_map, model, options, kinds_of)
    date_of = {path: date for date, path in targets.objects.items()}
    objects: dict[str, int] = {}
    for written, path in enumerate(targets.all, 1):
        journal.publish(path)
        if path == targets.prob:
            write_probability(change_map, path, options.creation_options, probability_qml())
        elif path == targets.preview:
            write_preview(pair, change_map, path, polygons)
        elif path == targets.flow:
            pieces = scene_flow(pair, cast(FlowModel, model), load.tile_size)
            write_flow(pair.grid, pieces, path, change_map.provenance)
        elif (date := date_of.get(path)) is not None and standing is not None:
            day = options.t1_date if date == "t1" else options.t2_date
            outlining = _outlining(pair, model, options)
            table = object_polygons(change_map, standing, date, day, outlining)
            write_objects(table, path, date, change_map.provenance, options.layer_options)
            objects[f"objects_{date}"] = len(table)
        else:
            _write(change_map, polygons, path, options)
        progress("writing", written, len(targets.all))
    return {
        "n_polygons": None if polygons is None else len(polygons),
        "changed_pixels": changed,
        "valid_pixels": valid,
        "changed_share": changed / valid if valid else 0.0,
        "area_m2": changed_m2 if polygons is None else _area_m2(polygons, changed_m2),
        "changed_area_m2": changed_m2,
        "threshold": change_map.threshold,
        **objects,
    }


def _polygons(
    pair: ScenePair, change_map: ChangeMap, model: Model, options: Options, kinds_of: Any
) -> Any:
    return change_polygons(
        change_map.mask.path,
        change_map.prob.path,
        pair.grid.crs,
        pair.grid.affine,
        min_score=_min_score(model, options),
        t1=options.t1_date,
        t2=options.t2_date,
        kinds_of=kinds_of,
        **_outlining(pair, model, options),
    )


def _outlining(pair: ScenePair, model: Model, options: Options) -> dict[str, Any]:
    """What changes and objects share of `change_polygons`."""
    return {
        "min_area_m2": _min_area_m2(pair, model, options),
        "simplify_m": options.simplify_m,
        "regularize": _regularize(model, options),
        "gsd_m": options.gsd_m,
        "model": model.name,
    }


def _min_area_m2(pair: ScenePair, model: Model, options: Options) -> float:
    """What is asked for, else what the model's card names."""
    known = pixel_size_m(pair.grid, options.gsd_m) is not None
    return least_object(
        model.card(), size_known=known, own_threshold=True, min_area_m2=options.min_area_m2
    )[0]


def _min_score(model: Model, options: Options) -> float:
    """What is asked for, else what the model's card names beside the threshold it belongs to."""
    own = options.threshold is None
    return least_object(
        model.card(), size_known=False, own_threshold=own, min_score=options.min_score
    )[1]


def _regularize(model: Model, options: Options) -> bool:
    """What is asked for, else what the model's card says of the shape of its objects."""
    if options.regularize is not None:
        return options.regularize
    return options.simplify_m == 0 and bool(model.card().get("regularize", False))


def _area_m2(polygons: Any, changed_m2: float | None) -> float | None:
    return None if changed_m2 is None else round(float(polygons["area_m2"].sum()), 2)


def _workers(options: Options) -> int:
    return options.workers or max(1, min(MAX_WORKERS, usable_cores()))


def _model(pair: ScenePair, options: Options) -> Model:
    scene = SceneFacts(
        n_bands=pair.n_bands,
        gsd_m=pixel_size_m(pair.grid, options.gsd_m),
        georeferenced=is_georeferenced(pair.grid),
        eight_bit=pair.t1.dtype == pair.t2.dtype == "uint8",
        one_type=pair.t1.dtype == pair.t2.dtype,
    )
    threads = network_threads(_workers(options))
    return scene_model(
        options.model, scene, options.device, threads, msi=options.msi, tta=options.tta
    )


def _tile_size(pair: ScenePair, model: Model) -> int:
    return tile_side(model.tiling, pair.whole.shape_hw, picture=pair.grid.crs is None)


def _load(pair: ScenePair, model: Model, options: Options) -> Load:
    asked = Load(
        tile_size=options.tile_size or _tile_size(pair, model),
        batch_size=options.batch_size or model.tiling.batch_size,
        workers=_workers(options),
        gdal_cache=GDAL_CACHE,
    )
    load = fit_load(asked, options.max_memory, pair.n_bands, model.tiling)
    if load != asked:
        log.info(
            "to stay within --max-memory: tiles of %d, batches of %d, %d workers",
            load.tile_size,
            load.batch_size,
            load.workers,
        )
    return load


def _provenance(pair: ScenePair, model: Model, options: Options) -> Provenance:
    computed = asdict(options)
    for name in ("tile_size", "batch_size", "workers", "device", "max_memory", "overwrite"):
        del computed[name]  # these do not change the result
    computed["min_area_m2"] = _min_area_m2(pair, model, options)
    computed["min_score"] = _min_score(model, options)
    computed["regularize"] = _regularize(model, options)
    return describe_pair(pair) | {
        "aoi": None if pair.aoi is None else hashlib.sha256(pair.aoi.wkb).hexdigest(),
        "model": redacted_data(model.card()),
        "parameters": redacted_data(computed),
    }


def _identity(pair: ScenePair, provenance: Provenance, options: Options) -> Provenance:
    """What tells a run from another: two signed links may differ in what no result shows."""
    marks = [mark(pair.t1.path), mark(pair.t2.path)]
    hidden = {"links": marks} if any(marks) else {}
    return provenance | {"tile_size": options.tile_size} | hidden


def check_targets(pair: ScenePair, targets: Targets, options: Options) -> None:
    """Find out before any work whether the outputs of a run can be.

    Raises:
        UsageError: for formats, or measures in metres, that need georeferencing.
        OutputError: for places that cannot be written, and inputs.
    """
    has_crs = pair.grid.crs is not None
    targets.check_formats(has_crs=has_crs, pixel_coordinates=options.pixel_coordinates)
    targets.check_crs(pair.grid.crs, middle(pair.grid))
    sized = options.min_area_m2 or options.simplify_m
    if sized and pixel_size_m(pair.grid, options.gsd_m) is None:
        raise UsageError(
            "expected a pixel size for --min-area and --simplify, found images without "
            "georeferencing; give --gsd METRES"
        )
    targets.check_places(pair.files, _scratch_bytes(pair, objects=bool(targets.objects)))


def _check_model(pair: ScenePair, model: Model, targets: Targets) -> None:
    """Find out before any work whether a model gives what is asked for.

    Raises:
        ModelError: it gives no flow, or finds no buildings.
    """
    if targets.flow is not None:
        check_flow(model, pair.n_bands)
    for date in targets.objects:
        check_finds_buildings(model, f"--objects-{date}")


def _scratch_bytes(pair: ScenePair, *, objects: bool = False) -> int:
    height, width = pair.shape_hw
    # float32 probabilities, the uint8 mask, and what tells kinds
    each = 5 + BYTES_PER_PIXEL + (MASK_BYTES_PER_PIXEL if objects else 0)
    return height * width * each
