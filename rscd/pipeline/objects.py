"""From two rasters and a segmenter to polygons of objects that appeared or vanished."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from odc.geo.geobox import GeoBox

from rscd.base.errors import UsageError
from rscd.base.redact import redacted_data
from rscd.base.types import BoolArray, Progress, Provenance, silent
from rscd.events.pixels import ChangeLabels
from rscd.events.scenes import event_polygons
from rscd.export.outputs import is_vector
from rscd.export.style import event_qml
from rscd.export.targets import Targets
from rscd.export.vector import write_vector
from rscd.geo.grid import middle, pixel_size_m
from rscd.geo.scene import ScenePair
from rscd.geo.source import close_handles
from rscd.geo.tiles import Box, Tile
from rscd.inference.models import CEG
from rscd.inference.registration import warn_of_shift
from rscd.labels.from_segmenter import (
    DATES,
    LabelOptions,
    check_patience,
    fingerprint,
    labels_of,
    scene_pair,
    view_of,
)
from rscd.pipeline.maps import Options, dated
from rscd.pipeline.provenance import describe_pair
from rscd.segmenters.instances import share_inside
from rscd.segmenters.prompts import PromptSet
from rscd.segmenters.segmenter import Segmenter, SemanticPrediction
from rscd.segmenters.stitch import around, segment, windows


@dataclass(frozen=True)
class EventResult:
    """Summary of a run; plain data, see ``--json``."""

    outputs: list[str]
    model: str
    appeared: int
    vanished: int
    objects_t1: int
    """Objects found at t1, whether they vanished or not."""
    objects_t2: int
    reliable: float
    """Percentage of the valid pixels that reach gamma at both dates."""
    gamma: float
    seconds: float


def predict_events(
    pair: ScenePair,
    outputs: Sequence[str | Path],
    segmenter: Segmenter,
    prompts: PromptSet,
    rules: LabelOptions | None = None,
    options: Options | None = None,
    *,
    allow_slow: bool = False,
    progress: Progress = silent,
) -> EventResult:
    """Search each date for text prompts and write the objects that exist at one date only.

    Args:
        pair: two dates on one grid.
        outputs: vector files; the suffix is the format.
        segmenter: of `rscd.segmenters.segmenter.load_segmenter`.
        prompts: of `rscd.segmenters.prompts.parse_prompts`.
        rules: how scores become events. ``min_area_m2`` is not used: small objects are compared,
            ``options.min_area_m2`` omits them from the result.
        options: of these, the dates, ``min_area_m2``, ``min_score``, ``gsd_m``,
            ``pixel_coordinates``, ``overwrite`` and ``layer_options`` are used.
        allow_slow: do not refuse a run that will take long on a CPU.
        progress: progress callback.

    Raises:
        RscdError: anything the user must fix; no new output exists then.
    """
    started = time.monotonic()
    options = dated(pair, options or Options())
    targets = event_targets(pair, outputs, options)
    rules = replace(rules or LabelOptions(), min_area_m2=0.0).filled(segmenter)
    view = seen_around(pair, rules)
    whole_needed = rules.tile is None
    check_memory(view.pair, prompts, CUT_ADVICE if whole_needed else BOX_ADVICE)
    source = scene_pair(view.pair, targets.outputs[0].parent)
    check_patience(segmenter, [source], prompts, rules, allow_slow=allow_slow)
    _rehearse(pair, targets, segmenter, prompts, rules, options)
    found = []
    try:
        warn_of_shift(pair)
        for date in DATES:
            image = source.read(date)
            shown = view_of(image, source.name, date, options.gsd_m)
            seen = segment(
                segmenter,
                replace(shown, grid=pair.scene, box=view.box),
                prompts,
                plan=view.windows,
                told=lambda done, total, date=date: progress(date, done, total),  # type: ignore[misc]
            )
            found.append(replace(seen, valid=image.valid))
    finally:
        close_handles()
    labels = labels_of(found, rules, pixel_size_m(pair.grid, options.gsd_m))
    table = _table(labels, view.pair.grid, segmenter, prompts, options, view.wanted)
    provenance = _provenance(pair, fingerprint(segmenter, prompts, rules), rules)
    for path in targets.outputs:
        _write(table, path, options, provenance)
    counted = labels.valid & view.wanted
    objects = [
        int(np.count_nonzero(share_inside(date.instances, view.wanted)))
        for date in (labels.events.t1, labels.events.t2)
    ]
    return EventResult(
        outputs=[str(path) for path in targets.outputs],
        model=_model_name(segmenter),
        appeared=int((table["kind"] == "appeared").sum()),
        vanished=int((table["kind"] == "vanished").sum()),
        objects_t1=objects[0],
        objects_t2=objects[1],
        reliable=round(
            100 * int((labels.reliable & counted).sum()) / max(int(counted.sum()), 1), 2
        ),
        gamma=rules.gamma or 0.0,
        seconds=round(time.monotonic() - started, 3),
    )


@dataclass(frozen=True)
class Surroundings:
    """Area a segmenter must process so that part of a scene gives the same result as the whole."""

    pair: ScenePair
    """The pair over the windows of the whole scene that overlap the part."""
    box: Box | None
    """Their box in the scene; None: the whole scene."""
    windows: Sequence[Tile]
    """The windows in pixels of the scene."""
    wanted: BoolArray
    """(H,W) of ``pair``, where events are requested."""


def seen_around(pair: ScenePair, rules: LabelOptions) -> Surroundings:
    """The windows that a part of a scene requires.

    Args:
        pair: two dates, possibly cropped.
        rules: with windows filled in (`LabelOptions.filled`).
    """
    tiles = windows(pair.whole.shape_hw, rules.tile, rules.overlap or 0, pair.window)
    box = around(tiles)
    view = replace(pair.whole, window=box)
    row, col = pair.window.corner
    return Surroundings(
        view, None if view == pair.whole else box, tiles, pair.inside(box.moved(-row, -col))
    )


def event_targets(pair: ScenePair, outputs: Sequence[str | Path], options: Options) -> Targets:
    """The outputs, checked before any work.

    Raises:
        UsageError: for a format that is not a vector format or does not support this scene, or a
            pixel size stated where the scene has its own.
        OutputError: for a location that cannot be written, or an existing file.
    """
    targets = Targets.of(outputs, None, None)
    rasters = [path for path in targets.outputs if not is_vector(path)]
    if rasters:
        raise UsageError(
            f"expected vector files (.gpkg .geojson .fgb .parquet) with -m {CEG}:..., found "
            f"{rasters[0]}; rscd pseudolabel T1 T2 -o STORE writes rasters"
        )
    targets.check_formats(
        has_crs=pair.grid.crs is not None, pixel_coordinates=options.pixel_coordinates
    )
    targets.check_crs(pair.grid.crs, middle(pair.grid))
    targets.check_places(pair.files, 0)
    pixel_size_m(pair.grid, options.gsd_m)  # check before weights are loaded
    if not options.overwrite:
        targets.check_new(())
    return targets


BOX_ADVICE = "select a part with --bbox or --aoi, or use fewer prompts"
CUT_ADVICE = (
    "cut the rasters into parts, or use fewer prompts; selecting a part with --bbox or --aoi does "
    "not help, because this backend processes the whole image unless --tile-size is given"
)


def check_memory(pair: ScenePair, prompts: PromptSet, advice: str = BOX_ADVICE) -> None:
    """Refuse a scene whose scores of both dates do not fit: whole objects are compared in memory.

    Args:
        pair: two dates on one grid.
        prompts: each has one plane of scores.
        advice: what to do, for the message.

    Raises:
        UsageError: if it does not fit.
    """
    height, width = pair.shape_hw
    # scores of both dates and one copy, and the pixels of both dates with their masks
    need = height * width * (12 * len(prompts.classes) + 16 * pair.n_bands + 32)
    free = psutil.virtual_memory().available
    if need > free:
        raise UsageError(
            f"expected a scene whose scores fit into memory ({free / 1e9:.1f} GB free), found one "
            f"that needs {need / 1e9:.1f} GB; {advice}"
        )


def _model_name(segmenter: Segmenter) -> str:
    return f"{CEG}:{segmenter.info.name}"


def _rehearse(
    pair: ScenePair,
    targets: Targets,
    segmenter: Segmenter,
    prompts: PromptSet,
    rules: LabelOptions,
    options: Options,
) -> None:
    """Write every output once for a scene of one pixel, so that wrong options fail early."""
    nothing = np.zeros((len(prompts.classes), 1, 1), np.float32)
    seen = SemanticPrediction(nothing, prompts.classes, prompts.n_foreground, instances=[])
    grid = GeoBox((1, 1), pair.grid.affine, pair.grid.crs)
    table = _table(labels_of([seen, seen], rules, None), grid, segmenter, prompts, options)
    with tempfile.TemporaryDirectory() as scratch:
        for path in targets.outputs:
            _write(table, Path(scratch) / path.name, options, {})


def _table(
    labels: ChangeLabels,
    grid: GeoBox,
    segmenter: Segmenter,
    prompts: PromptSet,
    options: Options,
    wanted: BoolArray | None = None,
) -> Any:
    return event_polygons(
        labels,
        grid,
        classes=prompts.classes,
        min_area_m2=options.min_area_m2 or 0.0,
        min_score=options.min_score or 0.0,
        gsd_m=options.gsd_m,
        t1=options.t1_date,
        t2=options.t2_date,
        model=_model_name(segmenter),
        inside=wanted,
    )


def _write(table: Any, path: Path, options: Options, provenance: Provenance) -> None:
    write_vector(
        table,
        path,
        provenance=provenance,
        layer_options=options.layer_options,
        pixel_coordinates=options.pixel_coordinates,
        style=event_qml(),
    )


def _provenance(pair: ScenePair, how: Provenance, rules: LabelOptions) -> Provenance:
    plain = describe_pair(pair) | {"segmentation": how, "rules": asdict(rules)}
    found: Provenance = redacted_data(json.loads(json.dumps(plain)))
    return found
