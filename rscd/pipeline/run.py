"""A run, resolved once: what pair, targets and options come to."""

import hashlib
import json
import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from rscd.base.arguments import check_kind, check_range
from rscd.base.errors import UsageError
from rscd.base.redact import mark, redacted_data
from rscd.base.types import Align, DateName, Provenance
from rscd.export.project import check_project
from rscd.export.targets import Targets
from rscd.geo.dates import days_of
from rscd.geo.grid import is_georeferenced, middle
from rscd.geo.register import Register, register
from rscd.geo.scene import Reading, ScenePair
from rscd.geo.settings import remote_cache
from rscd.geo.source import BandChoice
from rscd.inference.card import identity
from rscd.inference.cores import network_threads, usable_cores
from rscd.inference.flow import check_flow
from rscd.inference.kinds import (
    BYTES_PER_PIXEL,
    MARGIN,
    MASK_BYTES_PER_PIXEL,
    check_finds_buildings,
    finds_buildings,
)
from rscd.inference.memory import GDAL_CACHE, Load, fit_load
from rscd.inference.models import scene_model
from rscd.inference.predictor import Model, least_object, tile_side
from rscd.inference.shipped import SceneFacts
from rscd.pipeline.provenance import describe_pair

MAX_WORKERS = 8
"""More threads than this wait for the disk and for each other."""

CALIBRATED = ("threshold", "msi", "tta", "flip", "bands", "register")
"""Options on which scores depend: a least score chosen with others means nothing."""

WITHOUT_EFFECT = ("tile_size", "batch_size", "workers", "device", "max_memory", "overwrite")
"""Options that do not change the result."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What `predict` computes and how.

    The options of ``rscd predict`` by the same names, with the unit where they have one:
    ``min_area_m2``, ``simplify_m``.
    """

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
    register: Register = "off"
    """How one date is moved onto the other before they are compared, see `rscd.geo.register`."""
    misreg: float | Literal["auto"] | None = None
    """Pixels by which a date is moved to see which polygons that takes away, see
    `rscd.inference.misreg`; ``auto``: by the usual error of the registration; None: not."""
    bands: BandChoice | None = None
    """Of both dates, by number or by name."""
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
    budget: Provenance | None = None
    """How ``min_score`` was chosen for a budget of false alarms, see `rscd.evaluation.budget`: for
    one model with some of these options, which must be those of the run."""
    creation_options: Mapping[str, str] = field(default_factory=dict)
    layer_options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Warn of what goes.

        Raises:
            UsageError: a value out of range, with which a run would find nothing, or go on without.
        """
        self._check()
        if self.gsd_m is not None:
            message = "Options(gsd_m=...) goes with version 0.3: give it to open_pair(gsd_m=...)"
            warnings.warn(message, DeprecationWarning, stacklevel=3)

    def _check(self) -> None:
        def given(*names: str) -> list[str]:
            return [name for name in names if getattr(self, name) not in (None, "auto")]

        check_range(self, given("threshold", "min_score"), 0, 1)
        check_range(self, given("min_area_m2", "misreg"))
        check_range(self, given("tile_size", "batch_size", "workers"), 1)
        for name, words in (("align", get_args(Align)), ("register", get_args(Register))):
            if (found := getattr(self, name)) not in words:
                raise UsageError(f"expected {name} {', '.join(words)}, found {found!r}")

    def check_opened(self, pair: ScenePair) -> None:
        """Refuse options of reading that a pair was opened without, and which would do nothing.

        Raises:
            UsageError: naming the first one.
        """
        for name, opened in pair.reading._asdict().items():
            wanted = getattr(self, name)
            alike = wanted == opened or str(wanted) == str(opened)  # NaN is not NaN
            if wanted != getattr(DEFAULTS, name) and not alike:
                raise UsageError(
                    f"expected {name} of a pair where it is opened, found {name}={wanted!r} for "
                    f"one opened with {opened!r}: open_pair(t1, t2, Options({name}={wanted!r}))"
                )

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

    def days(self, pair: ScenePair) -> dict[DateName, str | None]:
        """ISO date of each image, None where nothing tells it.

        Raises:
            UsageError: see `rscd.geo.dates.days_of`.
        """
        t1, t2 = days_of(
            (self.t1_date, self.t2_date),
            (pair.t1.date_tag, pair.t2.date_tag),
            (pair.t1.path, pair.t2.path),
        )
        return {"t1": t1, "t2": t2}


DEFAULTS = Options()


def options_of(given: Options | None) -> Options:
    """The options of a call; None: the usual ones.

    Raises:
        UsageError: something else, such as outputs in their place.
    """
    if given is None:
        return DEFAULTS
    check_kind(given, Options, "options")
    return given


@dataclass(frozen=True)
class Run:
    """All that decides what a run does; nothing behind `resolve` reads options, card or default."""

    pair: ScenePair
    targets: Targets
    model: Model
    card: Provenance
    """Of the model."""
    load: Load
    threshold: float | None
    """None: the model finds it in the scene."""
    kind_margin: float | None
    """Least difference of buildings that tells kinds; None: no buildings are looked for."""
    days: Mapping[DateName, str | None]
    """ISO date of each image, None where nothing tells it."""
    min_score: float
    outlining: Mapping[str, Any]
    """What `rscd.export.vector.change_polygons` takes for changes and objects alike."""
    creation_options: Mapping[str, str]
    layer_options: Mapping[str, str]
    overwrite: bool
    scratch_bytes: int
    """Space on disk that the run works with."""
    tile_size: int | None
    """As asked for; that of the run is in ``load``."""
    parameters: Provenance
    """The options that affect the result, decided as far as they are without reading a pixel."""
    registration: Provenance | None = None
    """How one date was moved, see `registered`."""

    @property
    def folder(self) -> Path:
        """Where it works: beside its first output."""
        first = self.targets.all[0]
        return first.with_name(f".{first.name}.rscd")

    @cached_property
    def provenance(self) -> Provenance:
        """What the result is made from and how; the inputs are read for their checksums."""
        aoi = self.pair.aoi
        moved = {} if self.registration is None else {"registration": self.registration}
        return (
            describe_pair(self.pair)
            | moved
            | {
                "aoi": None if aoi is None else hashlib.sha256(aoi.wkb).hexdigest(),
                "model": redacted_data(self.card),
                "parameters": redacted_data(self.parameters),
            }
        )

    @property
    def identity(self) -> Provenance:
        """What tells it from other runs: two signed links may differ in what no result shows."""
        marks = [mark(self.pair.t1.path), mark(self.pair.t2.path)]
        hidden = {"links": marks} if any(marks) else {}
        return self.provenance | {"tile_size": self.tile_size} | hidden


def registered(run: Run) -> Run:
    """The run with one date moved onto the other, as its options ask for; reads some windows.

    Raises:
        SceneError: see `rscd.geo.register.register`.
    """
    pair, registration = register(run.pair, run.parameters["register"], run.parameters["align"])
    return replace(run, pair=pair, registration=registration)


def _check_model(model: Model, targets: Targets, options: Options, n_bands: int) -> None:
    """Refuse what the model cannot do.

    Raises:
        RscdError: naming the option.
    """
    if targets.flow is not None or targets.dissimilarity is not None:
        check_flow(model, n_bands)
    if options.misreg is not None and not targets.has_vectors:
        raise UsageError(
            "expected polygons among the outputs for --misreg, found none; add -o change.gpkg"
        )
    given = [
        f"--{name}"
        for name, asked in (("register", options.register != "off"), ("misreg", options.misreg))
        if asked
    ]
    if given and model.tiling.whole_pictures:
        raise UsageError(
            f"expected no {' and '.join(given)} with {model.name}, which finds the flow between "
            "the dates itself, found it; drop it"
        )
    for date in targets.objects:
        check_finds_buildings(model, f"--objects-{date}")


def resolve(pair: ScenePair, targets: Targets, options: Options) -> Run:
    """Decide all that a run does before it reads a pixel.

    Raises:
        RscdError: anything the user must fix.
    """
    options.check_opened(pair)
    days, files = options.days(pair), pair.files
    check_project(pair, targets)
    if targets.item is not None and not any(days.values()):
        raise UsageError(
            f"expected the date of an image for the STAC item {targets.item}, found none; give "
            "--t1-date and --t2-date"
        )
    # float32 probabilities, the uint8 mask, and what tells kinds
    each = 5 + BYTES_PER_PIXEL + (MASK_BYTES_PER_PIXEL if targets.objects else 0)
    scratch_bytes = math.prod(pair.shape_hw) * each
    if not options.pixel_coordinates:
        targets.require_crs(pair.grid.crs)
    targets.check(pair.grid.crs, middle(pair.grid), files, scratch_bytes)
    pair = options.sized(pair)
    size_m = pair.pixel_size_m
    if (options.min_area_m2 or options.simplify_m) and size_m is None:
        raise UsageError(
            "expected a pixel size for --min-area and --simplify, found images without "
            "georeferencing; give --gsd METRES"
        )
    workers = options.workers or max(1, min(MAX_WORKERS, usable_cores()))
    scene = SceneFacts(
        n_bands=pair.n_bands,
        gsd_m=size_m,
        georeferenced=is_georeferenced(pair.grid),
        eight_bit=pair.t1.dtype == pair.t2.dtype == "uint8",
        one_type=pair.t1.dtype == pair.t2.dtype,
    )
    threads = network_threads(workers)
    model = scene_model(
        options.model,
        scene,
        options.device,
        threads,
        msi=options.msi,
        tta=options.tta,
        flip=options.flip,
    )
    _check_model(model, targets, options, pair.n_bands)
    card = model.card()
    min_area_m2, min_score = least_object(
        card,
        size_known=size_m is not None,
        own_threshold=options.threshold is None,
        min_area_m2=options.min_area_m2,
        min_score=options.min_score,
    )
    usual = tile_side(model.tiling, pair.whole.shape_hw, picture=pair.grid.crs is None)
    if options.budget is not None:
        _check_calibrated(options, pair.reading, card, min_area_m2)
    load = Load(
        tile_size=options.tile_size or usual,
        batch_size=options.batch_size or model.tiling.batch_size,
        workers=workers,
        gdal_cache=GDAL_CACHE,
        remote_cache=remote_cache(files),
    )
    regularize = options.regularize
    if regularize is None:
        regularize = options.simplify_m == 0 and bool(card.get("regularize", False))
    decided = replace(
        options,
        min_area_m2=min_area_m2,
        min_score=min_score,
        regularize=regularize,
        t1_date=days["t1"],
        t2_date=days["t2"],
        gsd_m=None,
        **pair.reading._asdict(),
    )
    outlined = targets.has_vectors or bool(targets.objects)
    parameters = {k: v for k, v in asdict(decided).items() if k not in WITHOUT_EFFECT}
    if options.budget is None:  # results of before have no such key
        del parameters["budget"]
    return Run(
        pair=pair,
        targets=targets,
        model=model,
        card=card,
        load=fit_load(load, options.max_memory, pair.n_bands, model.tiling),
        threshold=options.threshold,
        kind_margin=float(card[MARGIN]) if outlined and finds_buildings(model) else None,
        days=days,
        min_score=min_score,
        outlining={
            "ground": pair.ground,
            "min_area_m2": min_area_m2,
            "simplify_m": options.simplify_m,
            "regularize": regularize,
            "model": model.name,
        },
        creation_options=options.creation_options,
        layer_options=options.layer_options,
        overwrite=options.overwrite,
        scratch_bytes=scratch_bytes,
        tile_size=options.tile_size,
        parameters=parameters | {"gsd_m": pair.gsd_m},
    )


def _check_calibrated(
    options: Options, reading: Reading, card: Provenance, min_area_m2: float
) -> None:
    """Refuse a least score that was chosen for another model or other options.

    Raises:
        UsageError: one differs; it is named.
    """
    assert options.budget is not None
    before = options.budget["parameters"]
    own = asdict(options) | reading._asdict() | {"min_area_m2": min_area_m2}
    now = json.loads(json.dumps(redacted_data(own), default=str))
    usual = asdict(DEFAULTS)  # of options that the layer's version did not have
    different = [
        name
        for name in (*CALIBRATED, "min_area_m2")
        if before.get(name, usual[name]) != now.get(name)
    ]
    if identity(options.budget["model"]) != identity(json.loads(json.dumps(redacted_data(card)))):
        different.insert(0, "model")
    if different:
        path = options.budget["calibration"]["path"]
        raise UsageError(
            f"expected the model and options with which {path} was made, found other "
            f"{', '.join(different)}; give the same ones, or calibrate with a layer made with these"
        )
