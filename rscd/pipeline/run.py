"""A run, resolved once: what pair, targets and options come to."""

import hashlib
import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rscd.base.errors import UsageError
from rscd.base.redact import mark, redacted_data
from rscd.base.types import Align, Provenance
from rscd.export.targets import Targets
from rscd.geo.dates import dates_of, is_wrong_tag
from rscd.geo.grid import is_georeferenced, middle
from rscd.geo.scene import ScenePair
from rscd.inference.cores import network_threads, usable_cores
from rscd.inference.flow import check_flow
from rscd.inference.kinds import (
    BYTES_PER_PIXEL,
    MASK_BYTES_PER_PIXEL,
    check_finds_buildings,
)
from rscd.inference.memory import GDAL_CACHE, Load, fit_load
from rscd.inference.models import scene_model
from rscd.inference.predictor import Model, least_object, tile_side
from rscd.inference.shipped import SceneFacts
from rscd.pipeline.provenance import describe_pair

MAX_WORKERS = 8
"""More threads than this wait for the disk and for each other."""

WITHOUT_EFFECT = ("tile_size", "batch_size", "workers", "device", "max_memory", "overwrite")
"""Options that do not change the result."""

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
    flip: str = "width"
    """Axes flipped with ``msi`` and ``tta``: one of `rscd.methods.parts.multiscale.FLIPS`."""
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
    """Whether polygons get right angles where they fit and few vertices elsewhere; None takes what
    the model's card says, unless they are simplified."""
    align: Align = "t1"
    bands: tuple[int, ...] | None = None
    src_nodata: float | None = None
    t1_date: str | None = None
    """ISO date of the earlier image for the column t1; None takes the file's TIFFTAG_DATETIME."""
    t2_date: str | None = None
    """The same of the later image."""
    gsd_m: float | None = None
    """Deprecated, goes with version 0.3: the pixel size is the pair's, ``open_pair(gsd_m=...)``."""
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

    def __post_init__(self) -> None:
        """Warn of what goes."""
        if self.gsd_m is not None:
            message = "Options(gsd_m=...) goes with version 0.3: give it to open_pair(gsd_m=...)"
            warnings.warn(message, DeprecationWarning, stacklevel=3)

    def sized(self, pair: ScenePair) -> ScenePair:
        """The pair with the pixel size that these options may state.

        Raises:
            UsageError: the pair has another one.
        """
        if self.gsd_m is None:
            return pair
        if pair.gsd_m not in (None, self.gsd_m):
            raise UsageError(
                f"expected one pixel size, found {pair.gsd_m:g} m with the images and "
                f"{self.gsd_m:g} m in Options; give it to open_pair alone"
            )
        return pair.sized(self.gsd_m)


DEFAULTS = Options()


@dataclass(frozen=True)
class Run:
    """All that decides what a run does; nothing behind `resolve` asks a card or a default again."""

    pair: ScenePair
    targets: Targets
    options: Options
    """As asked for, and what was left open as decided; only a threshold that the model finds in
    the scene is None still."""
    model: Model
    card: Provenance
    """Of the model."""
    load: Load

    @property
    def folder(self) -> Path:
        """Where it works: beside its first output."""
        first = self.targets.all[0]
        return first.with_name(f".{first.name}.rscd")

    @property
    def outlining(self) -> dict[str, Any]:
        """What `rscd.export.vector.change_polygons` takes for changes and objects alike."""
        return {
            "ground": self.pair.ground,
            "min_area_m2": self.options.min_area_m2 or 0.0,
            "simplify_m": self.options.simplify_m,
            "regularize": bool(self.options.regularize),
            "model": self.model.name,
        }

    @cached_property
    def provenance(self) -> Provenance:
        """What the result is made from and how; the inputs are read for their checksums."""
        aoi = self.pair.aoi
        asked = {k: v for k, v in asdict(self.options).items() if k not in WITHOUT_EFFECT}
        return describe_pair(self.pair) | {
            "aoi": None if aoi is None else hashlib.sha256(aoi.wkb).hexdigest(),
            "model": redacted_data(self.card),
            "parameters": redacted_data(asked | {"gsd_m": self.pair.gsd_m}),
        }

    @property
    def identity(self) -> Provenance:
        """What tells it from other runs: two signed links may differ in what no result shows."""
        marks = [mark(self.pair.t1.path), mark(self.pair.t2.path)]
        hidden = {"links": marks} if any(marks) else {}
        return self.provenance | {"tile_size": self.options.tile_size} | hidden


def resolve(pair: ScenePair, targets: Targets, options: Options) -> Run:
    """Decide all that a run does before it reads a pixel.

    Raises:
        RscdError: anything the user must fix.
    """
    pair = options.sized(pair)
    options = dated(pair, options)
    _check_targets(pair, targets, options)
    model = _model(pair, options)
    if targets.flow is not None:
        check_flow(model, pair.n_bands)
    for date in targets.objects:
        check_finds_buildings(model, f"--objects-{date}")
    card = model.card()
    min_area_m2, min_score = least_object(
        card,
        size_known=pair.pixel_size_m is not None,
        own_threshold=options.threshold is None,
        min_area_m2=options.min_area_m2,
        min_score=options.min_score,
    )
    regularize = options.regularize
    if regularize is None:
        regularize = options.simplify_m == 0 and bool(card.get("regularize", False))
    decided = replace(options, min_area_m2=min_area_m2, min_score=min_score, regularize=regularize)
    return Run(pair, targets, decided, model, card, _load(pair, model, options))


def dated(pair: ScenePair, options: Options) -> Options:
    """Options with the dates of the images: those given, else those the files carry.

    Raises:
        UsageError: one that is no date, or t1 after t2.
    """
    given = (options.t1_date, options.t2_date)
    days = dates_of(given, (pair.t1.day, pair.t2.day))
    for source, text in zip((pair.t1, pair.t2), given, strict=True):
        if text is None and is_wrong_tag(source.date_tag):
            log.warning(
                "%s: its TIFFTAG_DATETIME %r is no date, column %s stays empty; give --%s-date",
                *(source.path, source.date_tag, source.date, source.date),
            )
    t1, t2 = (
        None if day is None or text is not None else day.isoformat()
        for text, day in zip(given, days, strict=True)
    )
    if told := [f"{name} {day}" for name, day in (("t1", t1), ("t2", t2)) if day is not None]:
        log.info("dates of the files (TIFFTAG_DATETIME): %s", ", ".join(told))
    # the pixel size is the pair's from here on
    return replace(options, t1_date=t1 or given[0], t2_date=t2 or given[1], gsd_m=None)


def scratch_bytes(pair: ScenePair, targets: Targets) -> int:
    """Space on disk that a run works with."""
    height, width = pair.shape_hw
    # float32 probabilities, the uint8 mask, and what tells kinds
    each = 5 + BYTES_PER_PIXEL + (MASK_BYTES_PER_PIXEL if targets.objects else 0)
    return height * width * each


def _check_targets(pair: ScenePair, targets: Targets, options: Options) -> None:
    crs = pair.grid.crs
    targets.check_formats(has_crs=crs is not None, pixel_coordinates=options.pixel_coordinates)
    targets.check_crs(crs, middle(pair.grid))
    if (options.min_area_m2 or options.simplify_m) and pair.pixel_size_m is None:
        raise UsageError(
            "expected a pixel size for --min-area and --simplify, found images without "
            "georeferencing; give --gsd METRES"
        )
    targets.check_places(pair.files, scratch_bytes(pair, targets))


def _workers(options: Options) -> int:
    return options.workers or max(1, min(MAX_WORKERS, usable_cores()))


def _model(pair: ScenePair, options: Options) -> Model:
    scene = SceneFacts(
        n_bands=pair.n_bands,
        gsd_m=pair.pixel_size_m,
        georeferenced=is_georeferenced(pair.grid),
        eight_bit=pair.t1.dtype == pair.t2.dtype == "uint8",
        one_type=pair.t1.dtype == pair.t2.dtype,
    )
    threads = network_threads(_workers(options))
    return scene_model(
        options.model,
        scene,
        options.device,
        threads,
        msi=options.msi,
        tta=options.tta,
        flip=options.flip,
    )


def _load(pair: ScenePair, model: Model, options: Options) -> Load:
    usual = tile_side(model.tiling, pair.whole.shape_hw, picture=pair.grid.crs is None)
    asked = Load(
        tile_size=options.tile_size or usual,
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
