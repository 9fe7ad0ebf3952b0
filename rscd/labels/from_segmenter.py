"""From pairs of images to label folders: segment each date once, then derive the labels.

Existing results are kept and an interrupted run resumes: the segmentations are stored in a
`rscd.labels.store.Store`, the labels in ``vl_change/``, ``vl_t1/`` and ``vl_t2/`` (0, 1 and 255 =
ignore), where `rscd.data.folder.PairFolder` finds them. Training never runs a segmenter.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS

from rscd.base.arguments import check_range
from rscd.base.errors import DataError, OutputError, SceneError, UsageError
from rscd.base.files import write_whole, writing
from rscd.base.redact import mark, redacted
from rscd.base.types import (
    IGNORE,
    LAYERS,
    BoolArray,
    ByteArray,
    DateName,
    FloatArray,
    Progress,
    Provenance,
    silent,
)
from rscd.base.version import version
from rscd.data.images import label_suffix, read_picture, write_picture
from rscd.data.layout import find_layout
from rscd.data.scene_files import pair_stem
from rscd.events.pixels import (
    DELTA,
    LEVELS,
    ChangeLabels,
    Level,
    change_labels,
    reliable_shares,
)
from rscd.geo.grid import pixel_size_m, stored_crs
from rscd.geo.measure import Ground, PixelAreas, ground_of
from rscd.geo.scene import ScenePair
from rscd.geo.source import Source
from rscd.geo.tiles import Box
from rscd.labels.store import Store, open_store, source_of
from rscd.segmenters.instances import Instance
from rscd.segmenters.prompts import PromptSet
from rscd.segmenters.rgb import PERCENTILES, Limits, to_rgb8
from rscd.segmenters.segmenter import Segmenter, SemanticPrediction, View
from rscd.segmenters.stitch import check_windows, segment, windows

GAMMAS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)
"""Values of gamma in the reliability report."""

COARSE_M = 2.0
"""Pixels larger than this do not show individual buildings."""

SLOW_SECONDS = 600.0
"""A run that takes longer on a CPU must be allowed explicitly."""

DATES: tuple[DateName, DateName] = ("t1", "t2")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelOptions:
    """How scores become labels; None uses the segmenter's suggestion."""

    gamma: float | None = None
    """Probability from which a pixel is reliable."""
    gamma_seg: float | None = None
    """The same for the labels of one date; default ``gamma``."""
    delta: float = DELTA
    """IoU sum up to which an object is a change event."""
    instance_threshold: float | None = None
    """Least score of an object."""
    duplicate_iou: float = 1.0
    """Objects of one date whose IoU is above this are one. Published: 1, which keeps all; objects
    to be drawn on a map are listed once with
    `rscd.segmenters.instances.DUPLICATE_IOU`."""
    min_object_m2: float = 0.0
    """Objects smaller than this take no part."""
    level: Level = "mixed"
    """What ``vl_change`` holds; published: mixed."""
    tile: int | None = None
    overlap: int | None = None

    def filled(self, segmenter: Segmenter) -> "LabelOptions":
        """Fill in the segmenter's suggestions.

        Raises:
            UsageError: if a value is out of range.
        """
        info = segmenter.info
        gamma = info.gamma if self.gamma is None else self.gamma
        least = self.instance_threshold
        tile = info.tile if self.tile is None else self.tile
        usual = info.overlap if tile is None else min(info.overlap, tile // 2)
        filled = replace(
            self,
            gamma=gamma,
            gamma_seg=gamma if self.gamma_seg is None else self.gamma_seg,
            instance_threshold=info.instance_threshold if least is None else least,
            tile=tile,
            overlap=usual if self.overlap is None else self.overlap,
        )
        shares = ("gamma", "gamma_seg", "instance_threshold", "duplicate_iou")
        check_range(filled, shares, 0, 1)
        check_range(filled, ("delta", "min_object_m2"))
        if filled.level not in LEVELS:
            raise UsageError(f"expected level {', '.join(LEVELS)}, found {filled.level!r}")
        check_windows(filled.tile, usual if filled.overlap is None else filled.overlap)
        return filled

    def record(self, gsd_m: float | None) -> Provenance:
        """Plain data for what is kept beside results, by the names of version 0.1.

        Args:
            gsd_m: stated pixel size of the images.
        """
        names = {"min_object_m2": "min_area_m2"}
        return {names.get(k, k): v for k, v in asdict(self).items()} | {"gsd_m": gsd_m}


@dataclass(frozen=True, eq=False)
class DateImage:
    """One date of one pair, decoded."""

    rgb: ByteArray
    valid: BoolArray | None
    grid: GeoBox | None
    limits: Sequence[tuple[float, float]] | None
    """Values of each band that were stretched to 0 and 255, None if nothing was stretched."""


class UnreadablePair(DataError):
    """A single pair is damaged; any other error affects all pairs."""


@dataclass(frozen=True)
class PairInput:
    """A pair to label: its source and the location of its labels."""

    name: str
    labels: Path
    """Folder that contains the label folders."""
    stem: str
    suffix: str
    read: Callable[[DateName], DateImage]
    sources: Mapping[DateName, Provenance]
    gsd_m: float | None
    """Side of a pixel in metres as stated, for images without georeferencing."""

    def label_path(self, layer: str) -> Path:
        """File of one label."""
        return self.labels / layer / f"{self.stem}{self.suffix}"


@dataclass
class Summary:
    """Summary of a run: sums over its pairs; plain data."""

    store: str
    backend: str
    pairs: int = 0
    segmented: int = 0
    """Images segmented in this run; the others were in the store."""
    changed_share: float = 0.0
    """Fraction of changed pixels among the labelled pixels of ``vl_change``."""
    ignored_share: float = 0.0
    """Fraction of pixels of ``vl_change`` that are 255."""
    reliable: dict[str, float] = field(default_factory=dict)
    """Fraction of pixels that are reliable at both dates, by gamma."""
    instances: tuple[int, int] = (0, 0)
    """Numbers of objects of t1 and t2."""
    gamma: float = 0.0
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    """Errors of unreadable pairs by name; these have no labels yet."""


def folder_pairs(
    root: Path,
    out: Path | None,
    split: str | None = None,
    bands: Sequence[int] | None = None,
    gsd_m: float | None = None,
) -> list[PairInput]:
    """The pairs of a dataset folder.

    Args:
        root: as `rscd.data.layout.find_layout` understands it.
        out: folder for the labels, in the split folders of the dataset; None: beside the dates.
        split: one split only.
        bands: 1-based bands that are red, green and blue.
        gsd_m: side of a pixel in metres, for images without georeferencing.

    Raises:
        UsageError: a pixel size that is not above 0.
        DataError: no pairs.
    """
    pixel_size_m(None, gsd_m)
    layout = find_layout(root)
    found = []
    for part, stem in layout.select(split):
        here = layout.parts[part]
        if stem not in here.t1 or stem not in here.t2:
            raise DataError(f"{here.base}: pair {stem!r} lacks a date; add the file or remove it")
        paths: Mapping[DateName, Path] = {"t1": here.t1[stem], "t2": here.t2[stem]}
        found.append(
            PairInput(
                name=f"{part}/{stem}" if part else stem,
                labels=here.base if out is None else out / part,
                stem=stem,
                suffix=label_suffix(paths["t1"]),
                read=partial(_read_files, paths, bands),
                sources={date: source_of(path) for date, path in paths.items()},
                gsd_m=gsd_m,
            )
        )
    if not found:
        raise DataError(f"{root}: split {split!r} holds no pairs; check the lists and folders")
    return found


def _read_files(
    paths: Mapping[DateName, Path], bands: Sequence[int] | None, date: DateName
) -> DateImage:
    picture = read_picture(paths[date], bands)
    rgb, limits = to_rgb8(picture.pixels, picture.valid)
    grid = None
    if picture.transform is not None:
        crs = None if picture.crs is None else CRS.from_wkt(picture.crs.to_wkt())
        grid = GeoBox(picture.shape_hw, picture.transform, crs)
    return DateImage(rgb, picture.valid, grid, limits)


def scene_pair(pair: ScenePair, out: Path) -> PairInput:
    """Two rasters on one grid as one pair, named after their stems; read whole when needed."""
    name = pair_stem(pair.t1.path, pair.t2.path)
    where = {"grid": pair.alignment["grid"], "bands": [list(pair.t1.bands), list(pair.t2.bands)]}
    return PairInput(
        name=name,
        labels=out,
        stem=name,
        suffix=".tif",
        read=partial(_read_scene, pair),
        sources={
            date: {"file": redacted(source.path), "stamp": _stamp(source), **where}
            for date, source in zip(DATES, (pair.t1, pair.t2), strict=True)
        },
        gsd_m=pair.gsd_m,
    )


def _stamp(source: Source) -> list[int | str]:
    """Value that changes when the image does."""
    hidden = mark(source.path)
    return [*(source.stamp or ()), *([hidden] if hidden else [])]


MOST_STRETCHED = 1 << 22
"""Most pixels that determine the stretch of a scene; larger scenes use every n-th row."""


def _read_scene(pair: ScenePair, date: DateName) -> DateImage:
    image, valid = pair.read(Box(0, 0, *pair.shape_hw))
    rgb, limits = to_rgb8(_pixels(pair, image, date), valid, _stretch(pair, date))
    return DateImage(rgb, None if valid.all() else valid, pair.grid, limits)


def _pixels(pair: ScenePair, image: FloatArray, date: DateName) -> NDArray[Any]:
    source = pair.t1 if date == "t1" else pair.t2
    pixels: NDArray[Any] = image[DATES.index(date)]
    return np.rint(pixels).astype(np.uint8) if source.dtype == "uint8" else pixels


def _stretch(pair: ScenePair, date: DateName) -> Limits | None:
    """Stretch of the whole scene, if only a part of it is read."""
    scene = pair.whole
    if pair == scene:
        return None
    height, width = scene.shape_hw
    step = -(-height * width // MOST_STRETCHED)
    rows = [scene.read(Box(row, 0, 1, width)) for row in range(0, height, step)]
    image = np.concatenate([image for image, _ in rows], axis=2)
    valid = np.concatenate([valid for _, valid in rows])
    return to_rgb8(_pixels(pair, image, date), valid)[1]


def generate(
    pairs: Sequence[PairInput],
    segmenter: Segmenter,
    prompts: PromptSet,
    folder: Path,
    options: LabelOptions = LabelOptions(),
    *,
    allow_slow: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Summary:
    """Segment the images missing in the store, and write the labels of every pair.

    Args:
        pairs: of `folder_pairs` or `scene_pair`; all have one stated pixel size.
        segmenter: the backend.
        prompts: the classes.
        folder: of the store.
        options: how scores become labels.
        allow_slow: do not refuse a run that will take long on a CPU.
        overwrite: start over if the store was made with other settings; replace the labels of other
            rasters of the same names.
        progress: progress callback.

    Raises:
        UsageError: if options are out of range, or the run is too slow to start without permission.
        OutputError: if the store was made with other settings or holds the labels of other rasters
            of the same names, or cannot be written.
        DataError: if an image cannot be read.
    """
    started = time.monotonic()
    options = options.filled(segmenter)
    check_patience(segmenter, pairs, prompts, options, allow_slow=allow_slow)
    stated = pairs[0].gsd_m
    print_of = fingerprint(segmenter, prompts, options, stated)
    summary = Summary(str(folder), segmenter.info.name, gamma=options.gamma or 0.0)
    with open_store(
        folder, print_of, prompts.classes, prompts.n_foreground, overwrite=overwrite
    ) as store:
        if not overwrite:
            _refuse_others(store, pairs)
        _fill(store, pairs, segmenter, prompts, options, summary, progress)
        run = {
            "software": f"rscd {version()}",
            "store": print_of,
            "options": options.record(stated),
            "summary": {k: v for k, v in asdict(summary).items() if k != "seconds"},
        }
        write_whole(folder / "run.json", json.dumps(run, indent=2, default=list) + "\n")
    summary.seconds = round(time.monotonic() - started, 3)
    return summary


def _refuse_others(store: Store, pairs: Sequence[PairInput]) -> None:
    """Files are named after the rasters alone: those of another place must not replace them."""
    for pair in pairs:
        for date in DATES:
            held, source = store.source(pair.name, date), pair.sources[date]
            # a new version under the old name, or the same one moved, is the same image
            if "grid" not in held or held["file"] == source["file"]:
                continue
            if any(held[key] != source[key] for key in ("stamp", "grid")):
                raise OutputError(
                    f"expected no labels of other rasters called {pair.name} in {store.folder}, "
                    f"found those of {held['file']}; give another folder with -o, or add "
                    "--overwrite to replace them"
                )


def _fill(
    store: Store,
    pairs: Sequence[PairInput],
    segmenter: Segmenter,
    prompts: PromptSet,
    options: LabelOptions,
    summary: Summary,
    progress: Progress,
) -> None:
    """Segment and label every pair, and note in the summary what was done."""
    totals = _Totals()
    for done, pair in enumerate(pairs):
        progress("segmenting", done, len(pairs))
        try:
            summary.segmented += segment_missing(store, segmenter, prompts, pair, options)
            _label_one(store, pair, options, totals)
        except UnreadablePair as error:
            summary.failed[pair.name] = str(error)
            if len(summary.failed) == len(pairs):
                raise
            log.error("pair %s failed: %s", pair.name, error)
        progress("segmenting", done + 1, len(pairs))
    totals.report(summary, options)
    summary.pairs = len(pairs)


def segment_missing(
    store: Store,
    segmenter: Segmenter,
    prompts: PromptSet,
    pair: PairInput,
    options: LabelOptions,
) -> int:
    """Segment the dates of a pair that the store lacks, and return how many they were.

    Raises:
        UnreadablePair: an image of the pair is damaged.
    """
    missing = [d for d in DATES if not store.is_complete(pair.name, d, pair.sources[d])]
    for date in missing:
        _segment_one(store, segmenter, prompts, pair, date, options)
    return len(missing)


def fingerprint(
    segmenter: Segmenter, prompts: PromptSet, options: LabelOptions, gsd_m: float | None
) -> Provenance:
    """Everything that changes what the store holds; not the device, not batch sizes."""
    return {
        "backend": segmenter.info.name,
        "quality": segmenter.info.quality,
        "segmenter": segmenter.fingerprint(),
        "foreground": [asdict(prompt) for prompt in prompts.foreground],
        "background": [asdict(prompt) for prompt in prompts.background],
        "windows": {"tile": options.tile, "overlap": options.overlap, "stitch": "core"},
        "stretch": list(PERCENTILES),
        "gsd_m": gsd_m,
    }


def check_patience(
    segmenter: Segmenter,
    pairs: Sequence[PairInput],
    prompts: PromptSet,
    options: LabelOptions,
    *,
    allow_slow: bool,
) -> None:
    """Estimate how long a slow backend will take, and refuse unless the user allows it.

    Raises:
        UsageError: if it takes more than `SLOW_SECONDS` and was not allowed.
    """
    each = segmenter.seconds_per_view(prompts)
    if each is None:
        return
    image = pairs[0].read("t1")
    shape_hw = (image.rgb.shape[0], image.rgb.shape[1])
    count = 2 * len(pairs) * len(windows(shape_hw, options.tile, options.overlap or 0))
    seconds = each * count
    text = f"about {seconds / 3600:.1f} hours ({count} windows of {each:.0f} s) on this CPU"
    if seconds > SLOW_SECONDS and not allow_slow:
        raise UsageError(
            f"expected a GPU for the segmenter {segmenter.info.name}, found none: {text}; use a "
            "GPU, another --segmenter such as clipseg, or say --allow-slow-cpu"
        )
    log.info("%s: %s", segmenter.info.name, text)


def view_of(image: DateImage, name: str, date: DateName, gsd_m: float | None) -> View:
    """A date as segmenters see it."""
    return View(image.rgb, name, date, image.grid, None, pixel_size_m(image.grid, gsd_m))


def _segment_one(
    store: Store,
    segmenter: Segmenter,
    prompts: PromptSet,
    pair: PairInput,
    date: DateName,
    options: LabelOptions,
) -> None:
    started = time.monotonic()
    try:
        image = pair.read(date)
    except (DataError, SceneError) as error:
        raise UnreadablePair(str(error)) from error
    view = view_of(image, pair.name, date, pair.gsd_m)
    if view.gsd_m is not None and view.gsd_m > COARSE_M:
        log.warning(
            "%s: pixels of %.3g m; prompts about buildings need %g m or finer",
            *(pair.name, view.gsd_m, COARSE_M),
        )
    found = segment(segmenter, view, prompts, tile=options.tile, overlap=options.overlap)
    found = replace(found, valid=image.valid)
    store.write(pair.name, date, found, image.grid, pair.sources[date])
    store.log(
        {
            "name": pair.name,
            "date": date,
            "seconds": round(time.monotonic() - started, 3),
            "instances": None if found.instances is None else len(found.instances),
            "stretch": image.limits,
        }
    )


@dataclass
class _Totals:
    pixels: int = 0
    changed: int = 0
    ignored: int = 0
    reliable: Any = field(default_factory=lambda: np.zeros(len(GAMMAS) + 1))
    instances: Any = field(default_factory=lambda: np.zeros(2, int))

    def add(
        self,
        labels: ChangeLabels,
        dates: Sequence[SemanticPrediction],
        gamma: float,
        level: Level,
    ) -> None:
        valid = int(labels.valid.sum())
        if valid:
            self.reliable += valid * reliable_shares(dates[0], dates[1], [*GAMMAS, gamma])
        self.pixels += valid
        change = labels.of(level)
        self.changed += int((change == 1).sum())
        self.ignored += int((change == IGNORE).sum()) - (labels.valid.size - valid)
        self.instances += [len(labels.events.t1.instances), len(labels.events.t2.instances)]

    def report(self, summary: Summary, options: LabelOptions) -> None:
        """Fill in the fractions, and warnings derived from them."""
        shares = self.reliable / max(self.pixels, 1)
        summary.reliable = {
            str(g): round(float(s), 4) for g, s in zip(GAMMAS, shares, strict=False)
        }
        summary.changed_share = self.changed / max(self.pixels - self.ignored, 1)
        summary.ignored_share = self.ignored / max(self.pixels, 1)
        first, second = (int(count) for count in self.instances)
        summary.instances = (first, second)
        summary.warnings = list(_doubts(float(shares[-1]), first, second, options.gamma or 0.0))


def _doubts(share: float, first: int, second: int, gamma: float) -> Iterator[str]:
    if share < 0.10:
        yield (
            f"{share:.0%} of the pixels are reliable at gamma {gamma}: almost everything will be "
            "ignored; lower --gamma or check the prompts"
        )
    if share > 0.95:
        yield f"{share:.0%} of the pixels are reliable at gamma {gamma}: raise --gamma"
    if not first + second:
        yield "no object of the foreground in any image: check prompts, bands and pixel size"
    elif max(first, second) > 3 * max(1, min(first, second)):
        yield (
            f"{first} objects at t1, {second} at t2: a prompt may fire on one date only (season, "
            "colour cast)"
        )


def _label_one(store: Store, pair: PairInput, options: LabelOptions, totals: _Totals) -> None:
    dates, grid = stored_dates(store, pair)
    labels = labels_of(dates, options, ground_of(grid, pair.gsd_m))
    totals.add(labels, dates, options.gamma or 0.0, options.level)
    maps = (labels.of(options.level), labels.seg1, labels.seg2)
    for layer, mask in zip(LAYERS, maps, strict=True):
        path = pair.label_path(layer)
        placed = pair.suffix == ".tif" and not grid.affine.is_identity
        crs, transform = (stored_crs(grid), grid.affine) if placed else (None, None)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_picture(path, mask[None], crs, transform, IGNORE)


def stored_dates(store: Store, pair: PairInput) -> tuple[list[SemanticPrediction], GeoBox]:
    """Both dates of a pair from the store, and their grid."""
    return [store.read(pair.name, date) for date in DATES], store.grid(pair.name, "t1")


def labels_of(
    dates: Sequence[SemanticPrediction], options: LabelOptions, ground: Ground
) -> ChangeLabels:
    """Change labels from two predictions; weak and small objects are omitted.

    Args:
        dates: t1 and t2 on one grid.
        options: with every value filled in (`LabelOptions.filled`).
        ground: how the pixels of the grid lie, as ``min_object_m2`` is the area of an object where
            it lies.

    Raises:
        UsageError: if an area is given and the pixel size is unknown.
    """
    size = (dates[0].prob.shape[1], dates[0].prob.shape[2])
    least_m2 = options.min_object_m2
    return change_labels(
        *dates,
        instance_threshold=options.instance_threshold or 0.0,
        counts=_large_enough(ground.pixel_areas_m2(size), least_m2) if least_m2 else None,
        gamma=options.gamma or 0.0,
        gamma_seg=options.gamma_seg,
        delta=options.delta,
        duplicate_iou=options.duplicate_iou if options.duplicate_iou < 1 else None,
    )


def _large_enough(areas: PixelAreas, least_m2: float) -> Callable[[Instance], bool]:
    if np.isnan(areas.nodes).all():
        raise UsageError(
            "expected a pixel size for --min-area, found images without georeferencing; give "
            "--gsd METRES"
        )

    def counts(instance: Instance) -> bool:
        col, row = instance.bbox[:2]
        return areas.total(instance.mask, row, col) >= least_m2

    return counts
