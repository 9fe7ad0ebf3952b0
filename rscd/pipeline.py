"""From two rasters to files: where inference and export meet."""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS

import rscd
from rscd.errors import OutputError, RscdError, UsageError
from rscd.export.atomic import output_error
from rscd.export.outputs import check_output, is_vector, write_output
from rscd.export.preview import SUFFIXES as PREVIEW_SUFFIXES
from rscd.export.preview import write_preview
from rscd.export.raster import write_probability
from rscd.export.style import probability_qml
from rscd.export.vector import change_polygons
from rscd.geo.area import Area
from rscd.geo.changemap import ChangeMap
from rscd.geo.grid import pixel_size_m
from rscd.geo.scene import ScenePair, close_handles
from rscd.geo.tiles import plan_tiles
from rscd.inference.journal import Journal, open_journal
from rscd.inference.memory import GDAL_CACHE, Load, fit_load
from rscd.inference.models import load_model
from rscd.inference.predictor import Model, Predictor
from rscd.inference.tiled import (
    Mapper,
    Progress,
    Seam,
    fit_model,
    measure_seam,
    predict_scene,
    silent,
    thread_mapper,
)
from rscd.provenance import describe_file
from rscd.types import Align, Provenance

MAX_WORKERS = 8
"""More threads than this wait for the disk and for each other."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What `predict` computes and how; the command line's options by the same names."""

    model: str | None = None
    """Name or weights file; None takes the default."""
    threshold: float | None = None
    """Probability at or above which a pixel is change; None takes the model's automatic one."""
    min_area_m2: float = 0.0
    """Polygons below this area are left out."""
    simplify_m: float = 0.0
    """Tolerance of polygon simplification in metres."""
    align: Align = "t1"
    bands: tuple[int, ...] | None = None
    src_nodata: float | None = None
    t1_date: str | None = None
    t2_date: str | None = None
    gsd_m: float | None = None
    """Side of a pixel in metres, for images without georeferencing."""
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
    """Of the polygons written, or of the changed pixels; None when the pixel size is unknown."""
    model: str
    threshold: float
    alignment: dict[str, str]
    seam: dict[str, float] | None
    """Error at tile edges, see `rscd.inference.tiled.Seam`; None where there is none."""
    seconds: float
    resumed: bool


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
        mapper: how blocks of tiles are carried out; default threads of this process.
        progress: told what is done.

    Raises:
        RscdError: anything the user must fix; no output exists then that did not before.
    """
    started = time.monotonic()
    targets = _targets(pair, outputs, prob, preview, options)
    model = _model(options)
    load = _load(pair, model, options)
    _check_room(pair, targets[0])
    provenance = _provenance(pair, model, options)
    identity = provenance | {"tile_size": load.tile_size}
    folder = targets[0].with_name(f".{targets[0].name}.rscd")
    try:
        with (
            rasterio.Env(GDAL_CACHEMAX=load.gdal_cache),
            open_journal(folder, identity) as journal,
        ):
            _rehearse(journal.folder, outputs, prob, options)
            threads = thread_mapper(load.workers) if mapper is None else nullcontext(mapper)
            with threads as run:
                change_map, seam = _predict(
                    pair, model, journal, provenance, options, load, run, progress
                )
            result = _export(
                pair, change_map, model.name, outputs, prob, preview, options, progress
            )
            journal.remove()
    except OutputError:
        raise
    except RscdError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except OSError as error:
        raise output_error(targets[0], error) from error
    finally:
        close_handles()
    seconds = round(time.monotonic() - started, 3)
    return Result(
        **result,
        outputs=[str(path) for path in targets],
        model=model.name,
        alignment=pair.alignment,
        seam=None if seam is None else asdict(seam),
        seconds=seconds,
        resumed=journal.resumed,
    )


def _rehearse(
    folder: Path, outputs: Sequence[str | Path], prob: str | Path | None, options: Options
) -> None:
    """Write every output once for a scene of one pixel: wrong options show before the work."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        grid = GeoBox((1, 1), Affine.identity(), CRS("EPSG:3857"))
        tiny = ChangeMap(Path(scratch), grid, 0.5, {})
        tiny.prob.create()
        tiny.threshold_mask()
        polygons = change_polygons(tiny.mask.path, None, grid.crs, grid.affine)
        for path in outputs:
            rehearsal = Path(scratch) / Path(path).name
            write_output(
                tiny,
                polygons,
                rehearsal,
                creation_options=options.creation_options,
                layer_options=options.layer_options,
                pixel_coordinates=True,
            )
        if prob is not None:
            rehearsal = Path(scratch) / f"prob-{Path(prob).name}"
            write_probability(tiny, rehearsal, options.creation_options, "")


def plan(pair: ScenePair, options: Options) -> Plan:
    """What `predict` would do, without reading a pixel."""
    model = _model(options)
    load = _load(pair, model, options)
    height, width = pair.shape_hw
    return Plan(
        model=model.name,
        alignment=pair.alignment,
        size=(width, height),
        tiles=len(
            plan_tiles(pair.shape_hw, load.tile_size, model.tiling.halo, model.tiling.multiple)
        ),
        tile_size=load.tile_size,
        batch_size=load.batch_size,
        workers=load.workers,
        scratch_bytes=_scratch_bytes(pair),
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
) -> tuple[ChangeMap, Seam | None]:
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
    return change_map, measure_seam(pair, predictor, change_map, load.tile_size)


def _export(
    pair: ScenePair,
    change_map: ChangeMap,
    model: str,
    outputs: Sequence[str | Path],
    prob: str | Path | None,
    preview: str | Path | None,
    options: Options,
    progress: Progress,
) -> dict[str, Any]:
    total = len(outputs) + (prob is not None) + (preview is not None)
    progress("writing", 0, total)
    changed, valid = change_map.threshold_mask()
    polygons = None
    if any(is_vector(Path(path)) for path in outputs):
        polygons = change_polygons(
            change_map.mask.path,
            change_map.prob.path,
            pair.grid.crs,
            pair.grid.affine,
            min_area_m2=options.min_area_m2,
            simplify_m=options.simplify_m,
            gsd_m=options.gsd_m,
            model=model,
            t1=options.t1_date,
            t2=options.t2_date,
        )
    written = 0
    for path in outputs:
        write_output(
            change_map,
            polygons,
            Path(path),
            creation_options=options.creation_options,
            layer_options=options.layer_options,
            pixel_coordinates=options.pixel_coordinates,
        )
        progress("writing", written := written + 1, total)
    if prob is not None:
        write_probability(change_map, Path(prob), options.creation_options, probability_qml())
        progress("writing", written := written + 1, total)
    if preview is not None:
        write_preview(pair, change_map, Path(preview))
        progress("writing", total, total)
    return {
        "n_polygons": None if polygons is None else len(polygons),
        "changed_pixels": changed,
        "valid_pixels": valid,
        "changed_share": changed / valid if valid else 0.0,
        "area_m2": _area_m2(pair, polygons, changed, options.gsd_m),
        "threshold": change_map.threshold,
    }


def _area_m2(pair: ScenePair, polygons: Any, changed: int, gsd_m: float | None) -> float | None:
    side = pixel_size_m(pair.grid) or gsd_m
    if side is None:
        return None
    if polygons is not None:
        return round(float(polygons["area_m2"].sum()), 2)
    return round(changed * side**2, 2)


def _workers(options: Options) -> int:
    return options.workers or max(1, min(MAX_WORKERS, os.cpu_count() or 1))


def _model(options: Options) -> Model:
    threads = max(1, (os.cpu_count() or 1) // _workers(options))
    return load_model(options.model, options.device, threads)


def _load(pair: ScenePair, model: Model, options: Options) -> Load:
    asked = Load(
        tile_size=options.tile_size or model.tiling.tile_size,
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
    return {
        "software": f"rscd {rscd.__version__}",
        "t1": describe_file(pair.t1.path) | {"bands": list(pair.t1.bands)},
        "t2": describe_file(pair.t2.path) | {"bands": list(pair.t2.bands)},
        "alignment": pair.alignment,
        "aoi": None if pair.aoi is None else pair.aoi.wkt,
        "model": model.card(),
        "parameters": computed,
    }


def _targets(
    pair: ScenePair,
    outputs: Sequence[str | Path],
    prob: str | Path | None,
    preview: str | Path | None,
    options: Options,
) -> list[Path]:
    targets = [Path(path) for path in outputs]
    for path in targets:
        check_output(
            path,
            has_crs=pair.grid.crs is not None,
            pixel_coordinates=options.pixel_coordinates,
        )
    if prob is not None:
        targets.append(_of_kind(Path(prob), (".tif", ".tiff"), "--prob"))
    if preview is not None:
        targets.append(_of_kind(Path(preview), PREVIEW_SUFFIXES, "--preview"))
    if not targets:
        raise UsageError("expected at least one output, found none; name it with -o change.geojson")
    if len(set(targets)) < len(targets):
        raise UsageError("expected different output files, found one named twice; rename one")
    if options.min_area_m2 and pair.grid.crs is None and options.gsd_m is None:
        raise UsageError(
            "expected a pixel size for --min-area, found images without georeferencing; give "
            "--gsd METRES"
        )
    for path in targets:
        _check_place(path, pair, options.overwrite)
    return targets


def _of_kind(path: Path, suffixes: tuple[str, ...], option: str) -> Path:
    if path.suffix.lower() not in suffixes:
        raise UsageError(
            f"expected a file ending in {' or '.join(suffixes)} for {option}, found {path}"
        )
    return path


def _check_place(path: Path, pair: ScenePair, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise OutputError(
            f"expected a folder for {path}, found none at {path.parent}; create it first"
        )
    if not os.access(path.parent, os.W_OK):
        raise OutputError(
            f"expected to write {path}, found that {path.parent} may not be written; choose "
            "another folder or change its permissions"
        )
    if path.is_dir():
        raise OutputError(f"expected a file name for an output, found the folder {path}")
    if any(path.resolve() == Path(source.path).resolve() for source in (pair.t1, pair.t2)):
        raise OutputError(f"expected an output beside the inputs, found the input {path} itself")
    if path.exists() and not overwrite:
        raise OutputError(f"expected a new file, found {path} already there; add --overwrite")


def _scratch_bytes(pair: ScenePair) -> int:
    height, width = pair.shape_hw
    return height * width * 5  # float32 probabilities and the uint8 mask


def _check_room(pair: ScenePair, target: Path) -> None:
    # outputs are copies of the scratch rasters, compressed; as much again is the safe side
    need = 2 * _scratch_bytes(pair)
    free = shutil.disk_usage(target.parent).free
    if free < need:
        raise OutputError(
            f"expected {need / 1e6:.0f} MB of free disk beside {target}, found "
            f"{free / 1e6:.0f} MB; free some space or write elsewhere"
        )
