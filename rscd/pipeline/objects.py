"""From two rasters and a segmenter to polygons of what appeared and vanished."""

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
from rscd.base.files import Claim
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
    """What a run did; plain data, see ``--json``."""

    outputs: list[str]
    model: str
    appeared: int
    vanished: int
    objects_t1: int
    """Objects seen at t1, whatever became of them."""
    objects_t2: int
    reliable: float
    """Per cent of the valid pixels that reach gamma at both dates."""
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
    """Look for words in each date and write the objects that are there at one date only.

    Args:
        pair: two dates on one grid.
        outputs: vector files; the suffix is the format.
        segmenter: of `rscd.segmenters.segmenter.load_segmenter`.
        prompts: of `rscd.segmenters.prompts.parse_prompts`.
        rules: how scores become events. ``min_area_m2`` is left alone: small objects take part,
            ``options.min_area_m2`` leaves them out of the result.
        options: of these, the dates, ``min_area_m2``, ``min_score``, ``gsd_m``,
            ``pixel_coordinates``, ``overwrite`` and ``layer_options`` count.
        allow_slow: do not refuse a run that will take long on a CPU.
        progress: told what is done.

    Raises:
        RscdError: anything the user must fix; no output exists then that did not before.
    """
    started = time.monotonic()
    options = dated(pair, options or Options())
    targets = event_targets(pair, outputs, options, prompts, rules)
    claim = _claim(pair, targets, options, prompts, rules)
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
    labels = labels_of(found, rules, view.pair.grid)
    table = _table(labels, view.pair.grid, segmenter, prompts, options, view.wanted)
    provenance = _provenance(pair, fingerprint(segmenter, prompts, rules), rules)
    with claim.held():
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
    """What a segmenter looks at so that a part of a scene comes out as it does in the whole."""

    pair: ScenePair
    """Over the windows of the whole scene that see some of the part."""
    box: Box | None
    """Where they lie in the scene; None: they are all of it."""
    windows: Sequence[Tile]
    """In pixels of the scene."""
    wanted: BoolArray
    """(H,W) of ``pair``, where events are asked for."""


def seen_around(pair: ScenePair, rules: LabelOptions) -> Surroundings:
    """The windows that a part of a scene asks for.

    Args:
        pair: two dates, perhaps cropped.
        rules: with windows filled in (`LabelOptions.filled`).
    """
    tiles = windows(pair.whole.shape_hw, rules.tile, rules.overlap or 0, pair.window)
    box = around(tiles)
    view = replace(pair.whole, window=box)
    row, col = pair.window.corner
    return Surroundings(
        view, None if view == pair.whole else box, tiles, pair.inside(box.moved(-row, -col))
    )


def event_targets(
    pair: ScenePair,
    outputs: Sequence[str | Path],
    options: Options,
    prompts: PromptSet,
    rules: LabelOptions | None,
) -> Targets:
    """The outputs, checked before any work.

    Raises:
        UsageError: not a vector format, one that this scene cannot be written in, or a pixel size
            stated where the scene has its own.
        OutputError: a place that cannot be written, or a file already there.
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
    pixel_size_m(pair.grid, options.gsd_m)  # before weights are loaded
    if not options.overwrite and not _claim(pair, targets, options, prompts, rules).begun:
        targets.check_new(())
    return targets


def _claim(
    pair: ScenePair,
    targets: Targets,
    options: Options,
    prompts: PromptSet,
    rules: LabelOptions | None,
) -> Claim:
    asked = [pair.t1.path, pair.t2.path, options, prompts, rules]
    return Claim(targets.all, list(map(repr, asked)))


BOX_ADVICE = "take a part with --bbox or --aoi, or fewer prompts"
CUT_ADVICE = (
    "cut the rasters into parts, or take fewer prompts; to take a part with --bbox or --aoi does "
    "not help, as this backend looks at the whole image, unless --tile-size gives it windows"
)


def check_memory(pair: ScenePair, prompts: PromptSet, advice: str = BOX_ADVICE) -> None:
    """Refuse a scene whose scores of both dates do not fit: objects are compared as wholes.

    Args:
        pair: two dates on one grid.
        prompts: one plane of scores each.
        advice: what to do, for the message.

    Raises:
        UsageError: it would not fit.
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
    """Write every output once for a scene of one pixel: wrong options show before the work."""
    nothing = np.zeros((len(prompts.classes), 1, 1), np.float32)
    seen = SemanticPrediction(nothing, prompts.classes, prompts.n_foreground, instances=[])
    grid = GeoBox((1, 1), pair.grid.affine, pair.grid.crs)
    table = _table(labels_of([seen, seen], rules, grid), grid, segmenter, prompts, options)
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
