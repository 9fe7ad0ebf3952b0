"""What is wrong with a pair before it is compared, what predict would do with it, what would help.

Nothing is written. Of the pixels, a few windows are read, however large the scene is.
"""

import logging
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rscd.base.errors import RscdError, UsageError
from rscd.base.plain import finite
from rscd.base.redact import redacted_data
from rscd.base.types import DateName, Provenance
from rscd.export.targets import Targets
from rscd.geo.appearance import appearance, sample
from rscd.geo.area import Area
from rscd.geo.bands import units_text
from rscd.geo.grid import grid_text, is_georeferenced
from rscd.geo.register import window_shift
from rscd.geo.registration import (
    REACH_PX,
    Look,
    common_edges,
    sample_boxes,
    shift_of,
    widened,
)
from rscd.geo.scene import ScenePair
from rscd.geo.settings import raster_border, unplaced
from rscd.geo.source import Source, close_handles, inspect, open_input
from rscd.geo.tiles import Box
from rscd.inference.near_infrared import warn_of_near_infrared
from rscd.inference.predictor import Block
from rscd.pipeline.faults import (
    KINDS,
    Finding,
    Level,
    Measured,
    faults_of_grids,
    faults_of_pixels,
    overlaps,
    used_bits,
)
from rscd.pipeline.maps import open_pair, plan
from rscd.pipeline.run import Options, Run, resolve

SMALL_PX = 256
"""Side of the window that is timed, and of that in a scene in which no others fit."""

MOST_HALO_PX = 16
"""Around it; what a network looks at beyond is added to its time."""

EXIT_CODES: dict[Level, int] = {"stops": 1, "doubt": 3, "note": 0}


@dataclass(frozen=True)
class Report:
    """What was found out about a pair; plain data, see ``--json``."""

    dates: Mapping[DateName, Provenance | None]
    """Facts of each file; None where it cannot be read."""
    between: Provenance
    """What was measured between the dates."""
    predict: Provenance | None
    """What ``rscd predict`` would do; None where it cannot work."""
    says: Sequence[str]
    """Lines that it would log."""
    findings: tuple[Finding, ...]
    """The worst first."""
    command: str | None
    """``rscd predict`` with all options that help."""

    @property
    def exit_code(self) -> int:
        """0 nothing that matters, 1 predict cannot work, 3 it should not be trusted."""
        return EXIT_CODES[self.findings[0].level] if self.findings else 0

    @property
    def data(self) -> Provenance:
        """All of it."""
        plain: Provenance = finite(redacted_data(asdict(self) | {"exit_code": self.exit_code}))
        return plain


def diagnose(
    t1: str | Path,
    t2: str | Path,
    options: Options,
    area: Area | None = None,
    *,
    gsd_m: float | None = None,
) -> Report:
    """Look at a pair as ``rscd predict`` would see it.

    Args:
        t1: see `rscd.geo.scene.ScenePair.open`.
        t2: likewise.
        options: as for `rscd.pipeline.maps.predict`.
        area: of interest.
        gsd_m: stated side of a pixel in metres.

    Raises:
        UsageError: options that do not fit together, whatever the images.
    """
    findings: list[Finding] = []
    dates: dict[DateName, Provenance | None] = {"t1": None, "t2": None}
    between: Provenance = {}
    chosen = None
    names: tuple[tuple[DateName, str | Path], ...] = (("t1", t1), ("t2", t2))
    with _heard() as records, tempfile.TemporaryDirectory() as folder:
        for date, path in names:
            with _stopping(findings):
                dates[date] = _facts(inspect(date, path, options.bands, options.src_nodata))
        if not findings:
            with _stopping(findings):
                pair = open_pair(t1, t2, options, area, gsd_m=gsd_m)
                findings += faults_of_grids(pair)
                between |= _overlap(pair)
                measured = measure(pair)
                findings += faults_of_pixels(pair, measured)
                between |= _shown(pair, measured)
                run = resolve(pair, Targets.of([Path(folder) / "change.tif"]), options)
                warn_of_near_infrared(pair, run.card)
                chosen = _chosen(run)
        close_handles()
    said = [record for record in records if record.levelno < logging.WARNING]
    kinds = {one.kind for one in findings}
    for record in records:
        kind = getattr(record, "fault", "other")
        if record.levelno >= logging.WARNING and kind not in kinds:
            text = record.getMessage()
            level: Level = "note" if kind == "other" else KINDS[kind][0]
            findings.append(Finding(kind, level, text))
    findings.sort(key=lambda one: list(EXIT_CODES).index(one.level))
    output = "change.gpkg" if between.get("georeferenced") else "change.tif"
    words = ["rscd", "predict", str(t1), str(t2), "-o", output, *_given(options, gsd_m)]
    words += () if area is None else area.words
    words += [word for one in findings if one.mend.startswith("--") for word in one.mend.split()]
    command = None if chosen is None else shlex.join(words)
    lines = [record.getMessage() for record in said]
    return Report(dates, between, chosen, lines, tuple(findings), command)


@contextmanager
def _heard() -> Iterator[list[logging.LogRecord]]:
    """What is logged meanwhile, kept from those who would print it."""
    records: list[logging.LogRecord] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger, listener = logging.getLogger("rscd"), Listener(logging.INFO)
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [listener], False
    logger.setLevel(logging.INFO)
    try:
        yield records
    finally:
        logger.handlers, level, logger.propagate = before
        logger.setLevel(level)


@contextmanager
def _stopping(findings: list[Finding]) -> Iterator[None]:
    """Errors of the images become findings, those of the command line stay errors."""
    try:
        yield
    except RscdError as error:
        if isinstance(error, UsageError) and not error.fault:
            raise
        findings.append(Finding(error.fault or "other", "stops", str(error)))


def _facts(source: Source) -> Provenance:
    """What a file says of itself."""
    with (
        unplaced(),
        raster_border(source.date, source.path),
        open_input(source.opens or source.path, source.stamp) as dataset,
    ):
        bits = dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
        tiled = dataset.profile.get("tiled", False)
        facts: Provenance = {
            "path": source.path,
            "format": dataset.driver,
            "grid": grid_text(source.grid),
            "bands": list(source.bands),
            "colours": [colour or "?" for colour in source.colours],
            "dtype": sorted({dataset.dtypes[band - 1] for band in source.bands}),
            "nbits": None if bits is None else int(bits),
            "nodata": "nan" if source.nodata != source.nodata else source.nodata,
            "alpha": source.alpha,
            "mask": source.has_mask,
            "units": units_text([source.metadata.units[band - 1] for band in source.bands]),
            "date": source.date_tag,
            "overviews": dataset.overviews(source.bands[0]),
            "tiled": bool(tiled),
        }
    return facts


def _overlap(pair: ScenePair) -> Provenance:
    size, shares = pair.pixel_size_m, overlaps(pair)
    return {
        "grid": grid_text(pair.grid),
        "pixel_size_m": None if size is None else round(size, 4),
        "georeferenced": is_georeferenced(pair.grid),
        "alignment": pair.alignment,
        "overlap": None if shares is None else [round(share, 4) for share in shares],
    }


def measure(pair: ScenePair) -> Measured:
    """Look at the pixels of a few windows.

    Raises:
        SceneError: a file turns out to be damaged.
    """
    scene = pair.whole
    height, width = scene.shape_hw
    boxes = sample_boxes((height, width))
    looks, samples = [], []
    for box in boxes:
        image, valid = scene.context(widened(box))
        looks.append(Look(image.mean(axis=1), valid))
        inner = slice(REACH_PX, -REACH_PX)
        samples.append(sample(image[..., inner, inner], valid[inner, inner]))
    if not boxes:
        small = Box(0, 0, min(height, SMALL_PX), min(width, SMALL_PX))
        samples.append(sample(*scene.context(small)))
    shift = shift_of(looks)
    shifts = []
    if shift is not None:
        for box, look in zip(boxes, looks, strict=True):
            if (found := window_shift(look, shift)) is not None:
                at = box.col + box.width // 2, box.row + box.height // 2
                shifts.append((*at, round(found[0], 2), round(found[1], 2)))
    colours = pair.t1.colours
    infrared = colours.index("nir") if colours.count("nir") == 1 else None
    if colours[:3] != ("red", "green", "blue"):
        infrared = None
    return Measured(
        look=appearance(samples, (_ends(pair.t1), _ends(pair.t2)), infrared),
        valid=float(np.mean([one.valid for one in samples])),
        shift=shift,
        shifts=tuple(shifts),
        windows=len(looks),
        common_edges=shift is not None or common_edges(looks),
    )


def _ends(source: Source) -> tuple[float, float] | None:
    if source.into is not None or not np.issubdtype(np.dtype(source.dtype), np.integer):
        return None
    kind = np.iinfo(source.dtype)
    return float(kind.min), float(kind.max)


def _shown(pair: ScenePair, found: Measured) -> Provenance:
    look, shift = found.look, found.shift
    shown: Provenance = {
        "valid": round(found.valid, 4),
        "windows": found.windows,
        "shift": None if shift is None else {k: round(v, 2) for k, v in asdict(shift).items()},
        "shift_spread_px": None if found.spread_px is None else round(found.spread_px, 2),
        "shift_map": [list(one) for one in found.shifts],
    }
    if look is not None:
        sharp = [round(value, 4) for value in look.sharpness]
        shown |= {
            "gain": round(look.gain, 3),
            "contrast": round(look.contrast, 3),
            "bits": list(used_bits(look)),
            "values": [[look.least[date], look.most[date]] for date in (0, 1)],
            "clipped": [round(value, 4) for value in look.clipped],
            "veiled": [round(value, 4) for value in look.veiled],
            "green": None if look.plant is None else [round(value, 3) for value in look.plant],
            "sharpness": sharp,
            "likeness": round(look.likeness, 3),
        }
    return shown


def _chosen(run: Run) -> Provenance:
    """What predict would do: model, alignment, threshold, memory, time."""
    threshold = run.threshold if run.threshold is not None else run.card.get("threshold")
    planned = plan(run)
    return {
        **{key: planned[key] for key in ("model", "alignment", "register", "size", "tiles")},
        "threshold": threshold,
        "memory_bytes": planned["memory_bytes"],
        "scratch_bytes": planned["scratch_bytes"],
        "read_bytes": planned["read_bytes"],
        "seconds": _seconds(run),
    }


def _seconds(run: Run) -> float | None:
    """Rough time of the model on the whole scene, from one window; None where that has no data."""
    height, width = run.pair.shape_hw
    side = min(SMALL_PX, height, width)
    multiple = run.model.tiling.multiple
    side = max(multiple, side // multiple * multiple)
    halo = min(run.model.tiling.halo, MOST_HALO_PX)
    box = Box((height - side) // 2, (width - side) // 2, side, side)
    started = time.monotonic()
    image, valid = run.pair.context(box.grown(halo))
    try:
        predictor = run.model.fit([Block(0, image, valid, halo)], side * side)
        if halo % multiple:
            image, valid = run.pair.context(box)
        predictor(image[None], valid[None])
    except RscdError:
        return None
    spent = time.monotonic() - started
    tile = min(run.load.tile_size, max(height, width))
    wasted = (1 + 2 * run.model.tiling.halo / tile) ** 2
    return round(spent * wasted * height * width / side**2, 1)


def _given(options: Options, gsd_m: float | None) -> list[str]:
    """The options of the images and the model as words of a command line, where given."""
    bands = None if options.bands is None else ",".join(map(str, options.bands))
    given = {"--model": options.model, "--bands": bands, "--gsd": gsd_m}
    given["--src-nodata"] = options.src_nodata
    given |= {"--t1-date": options.t1_date, "--t2-date": options.t2_date}
    if options.align != "t1":
        given["--align"] = options.align
    words = [str(word) for one in given.items() if one[1] is not None for word in one]
    return words + ["--pixel-coordinates"] * options.pixel_coordinates
