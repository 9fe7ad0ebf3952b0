"""From two rasters and a segmenter to polygons of objects that appeared or vanished."""

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import psutil
from geopandas import GeoDataFrame
from odc.geo.geobox import GeoBox

from rscd.base.arguments import check_kind
from rscd.base.begun import Begun, note_of
from rscd.base.errors import UsageError
from rscd.base.redact import redacted_data
from rscd.base.types import BoolArray, DateName, Progress, Provenance, silent
from rscd.events.pixels import ChangeLabels
from rscd.events.scenes import event_polygons
from rscd.export.outputs import is_vector
from rscd.export.style import event_qml
from rscd.export.targets import Targets
from rscd.export.vector import write_vector
from rscd.geo.grid import middle
from rscd.geo.measure import ground_of
from rscd.geo.registration import warn_of_shift
from rscd.geo.scene import ScenePair
from rscd.geo.source import close_handles
from rscd.geo.tiles import Box, Tile
from rscd.inference.models import CEG
from rscd.labels.from_segmenter import (
    DATES,
    LabelOptions,
    check_patience,
    fingerprint,
    labels_of,
    scene_pair,
    view_of,
)
from rscd.pipeline.provenance import check_unchanged, describe_pair
from rscd.pipeline.run import Options, options_of
from rscd.segmenters.instances import DUPLICATE_IOU, share_inside
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


@dataclass(frozen=True)
class EventRun:
    """All that decides what a run does."""

    pair: ScenePair
    targets: Targets
    segmenter: Segmenter
    prompts: PromptSet
    rules: LabelOptions
    """With every value filled in."""
    days: Mapping[DateName, str | None]
    """ISO date of each image, None where nothing tells it."""
    min_area_m2: float
    min_score: float
    layer_options: Mapping[str, str]

    @property
    def model(self) -> str:
        """Name for the column ``model``."""
        return f"{CEG}:{self.segmenter.info.name}"

    @cached_property
    def view(self) -> "Surroundings":
        """What the segmenter looks at: the windows that the pair requires."""
        pair, rules = self.pair, self.rules
        tiles = windows(pair.whole.shape_hw, rules.tile, rules.overlap or 0, pair.window)
        box = around(tiles)
        view = replace(pair.whole, window=box)
        row, col = pair.window.corner
        wanted = pair.inside(box.moved(-row, -col))
        return Surroundings(view, None if view == pair.whole else box, tiles, wanted)

    @property
    def begun(self) -> Begun:
        """Its outputs, should it stop between them; the inputs are read for their checksums."""
        aoi = self.pair.aoi
        shape = [repr(self.pair.window), None if aoi is None else aoi.wkt]
        written = [self.days, self.min_area_m2, self.min_score, self.layer_options]
        return Begun(self.targets.all, [self.provenance, shape, written])

    @cached_property
    def provenance(self) -> Provenance:
        """What the result is made from and how; the inputs are read for their checksums."""
        stated = self.pair.gsd_m
        plain = describe_pair(self.pair) | {
            "segmentation": fingerprint(self.segmenter, self.prompts, self.rules, stated),
            "rules": self.rules.record(stated),
        }
        found: Provenance = redacted_data(json.loads(json.dumps(plain)))
        return found


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
        rules: how scores become events; default: an object that two prompts find is listed once.
        options: of these, the dates, ``min_area_m2``, ``min_score``, ``pixel_coordinates``,
            ``overwrite`` and ``layer_options`` count.
        allow_slow: do not refuse a run that will take long on a CPU.
        progress: progress callback.

    Raises:
        RscdError: anything the user must fix; no new output exists then.
    """
    check_kind(segmenter, Segmenter, "segmenter")
    run = resolve_events(pair, outputs, lambda: segmenter, prompts, rules, options)
    return carry_out(run, allow_slow=allow_slow, progress=progress)


def resolve_events(
    pair: ScenePair,
    outputs: Sequence[str | Path],
    load: Callable[[], Segmenter],
    prompts: PromptSet,
    rules: LabelOptions | None,
    options: Options | None,
) -> EventRun:
    """Decide all that `predict_events` does before it looks at a pixel.

    The segmenter is loaded when all else is known to be right.
    """
    options = options_of(options)
    check_kind(pair, ScenePair, "pair")
    check_kind(prompts, PromptSet, "prompts")
    rules = LabelOptions(duplicate_iou=DUPLICATE_IOU) if rules is None else rules
    check_kind(rules, LabelOptions, "rules")
    pair = options.sized(pair)
    days = options.days(pair)
    targets = Targets.of(outputs)
    rasters = [path for path in targets.outputs if not is_vector(path)]
    if rasters:
        raise UsageError(
            f"expected vector files (.gpkg .geojson .fgb .parquet) for change events, found "
            f"{rasters[0]}; rscd pseudolabel T1 T2 -o STORE writes rasters"
        )
    if not options.pixel_coordinates:
        targets.require_crs(pair.grid.crs)
    targets.check(pair.grid.crs, middle(pair.grid), pair.files)
    stopped = note_of(targets.all).exists()  # some command, perhaps this one
    if not options.overwrite and not stopped:
        targets.check_new(())
    segmenter = load()
    run = EventRun(
        pair,
        targets,
        segmenter,
        prompts,
        rules.filled(segmenter),
        days,
        options.min_area_m2 or 0.0,
        options.min_score or 0.0,
        options.layer_options,
    )
    if not options.overwrite and stopped and not run.begun.before:
        targets.check_new(())
    return run


def carry_out(
    run: EventRun, *, allow_slow: bool = False, progress: Progress = silent
) -> EventResult:
    """Look, compare and write; see `predict_events`."""
    started = time.monotonic()
    targets, segmenter, prompts = run.targets, run.segmenter, run.prompts
    targets.prepare()
    view, rules = run.view, run.rules
    check_memory(view.pair, prompts, BOX_ADVICE if rules.tile is not None else CUT_ADVICE)
    source = scene_pair(view.pair, targets.outputs[0].parent)
    check_patience(segmenter, [source], prompts, rules, allow_slow=allow_slow)
    _rehearse(run)
    found = []
    try:
        warn_of_shift(run.pair, "register the images first, for example with AROSICS")
        for date in DATES:
            image = source.read(date)
            shown = view_of(image, source.name, date, source.gsd_m)
            seen = segment(
                segmenter,
                replace(shown, grid=run.pair.scene, box=view.box),
                prompts,
                plan=view.windows,
                progress=partial(progress, date),
            )
            found.append(replace(seen, valid=image.valid))
    finally:
        close_handles()
    labels = labels_of(found, rules, view.pair.ground)
    table = _table(run, labels, view.pair.grid, view.wanted)
    with run.begun.noted():
        for path in targets.outputs:
            _write(run, table, path, run.provenance)
        check_unchanged(run.pair, run.provenance)
        targets.send()
    targets.clear()
    counted = labels.valid & view.wanted
    objects = [
        int(np.count_nonzero(share_inside(date.instances, view.wanted)))
        for date in (labels.events.t1, labels.events.t2)
    ]
    return EventResult(
        outputs=targets.names,
        model=run.model,
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


BOX_ADVICE = "select a part with --bbox or --aoi, or use fewer prompts"
CUT_ADVICE = (
    "cut the rasters into parts, or use fewer prompts; selecting a part with --bbox or --aoi does "
    "not help, because this segmenter processes the whole image unless --tile-size is given"
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


def _rehearse(run: EventRun) -> None:
    """Write every output once for a scene of one pixel: wrong options show before the work."""
    classes = run.prompts.classes
    nothing = np.zeros((len(classes), 1, 1), np.float32)
    seen = SemanticPrediction(nothing, classes, run.prompts.n_foreground, instances=[])
    grid = GeoBox((1, 1), run.pair.grid.affine, run.pair.grid.crs)
    labels = labels_of([seen, seen], run.rules, ground_of(grid, run.pair.gsd_m))
    table = _table(run, labels, grid)
    with tempfile.TemporaryDirectory() as scratch:
        for path in run.targets.outputs:
            _write(run, table, Path(scratch) / path.name, {})


def _table(
    run: EventRun, labels: ChangeLabels, grid: GeoBox, wanted: BoolArray | None = None
) -> GeoDataFrame:
    return event_polygons(
        labels,
        grid,
        classes=run.prompts.classes,
        min_area_m2=run.min_area_m2,
        min_score=run.min_score,
        gsd_m=run.pair.gsd_m,
        t1=run.days["t1"],
        t2=run.days["t2"],
        model=run.model,
        inside=wanted,
    )


def _write(run: EventRun, table: GeoDataFrame, path: Path, provenance: Provenance) -> None:
    write_vector(
        table,
        path,
        provenance=provenance,
        layer_options=run.layer_options,
        pixel_coordinates=True,  # `Targets.require_crs` settled whether they are wanted
        style=event_qml(),
    )
