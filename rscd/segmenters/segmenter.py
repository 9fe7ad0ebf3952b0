"""Protocol and registry of segmenters: one image and text prompts -> class probabilities.

A segmenter processes one date at a time. Its interface is NumPy, torch is used only inside a
backend, and a backend is imported when it is selected.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
from odc.geo.geobox import GeoBox

from rscd.base.arguments import made
from rscd.base.errors import ModelError, UsageError
from rscd.base.types import BoolArray, ByteArray, DateName, FloatArray, Provenance
from rscd.geo.tiles import Box
from rscd.inference.models import CEG
from rscd.segmenters.instances import Instance
from rscd.segmenters.prompts import PromptSet


@dataclass(frozen=True, eq=False)
class View:
    """Input of a segmenter: an image of one date, or a window of it."""

    rgb: ByteArray
    """(h,w,3) uint8."""
    name: str = ""
    """Name of the pair, such as ``train_1``."""
    date: DateName = "t1"
    grid: GeoBox | None = None
    """Grid of the whole image, if it is georeferenced."""
    box: Box | None = None
    """Position of the window in the whole image; None: this is the whole image."""
    gsd_m: float | None = None
    """Pixel size in metres, if known."""


@dataclass(frozen=True, eq=False)
class SemanticPrediction:
    """Segmentation of one date."""

    prob: FloatArray
    """(C,h,w) float32 independent scores in [0,1], foreground classes first. They need not sum to
    1: if all are low the model is unsure, and the label is "ignore"."""
    classes: tuple[str, ...]
    n_foreground: int
    instances: Sequence[Instance] | None = None
    """Objects of the foreground classes; None if the model has none."""
    valid: BoolArray | None = None
    """(h,w), False where there is no image."""


@dataclass(frozen=True)
class SegmenterInfo:
    """Properties of a segmenter for its callers."""

    name: str
    native_instances: bool = False
    tile: int | None = None
    """Preferred side of windows in pixels; None: the whole image at once."""
    overlap: int = 0
    """Pixels that neighbouring windows share."""
    gamma: float = 0.5
    """Suggested probability from which a pixel is reliable. Scores of different models are not
    comparable: 0.8 in the paper belongs to APE."""
    instance_threshold: float = 0.5
    """Suggested least score of an object."""
    images_per_call: int = 1
    quality: str = "model"
    """``demo`` if no accuracy may be quoted."""


@runtime_checkable
class Segmenter(Protocol):
    """Protocol of a backend, and its base."""

    @property
    def info(self) -> SegmenterInfo:
        """Properties for the caller."""

    def predict(self, views: Sequence[View], prompts: PromptSet) -> list[SemanticPrediction]:
        """Segment views of any sizes, one prediction each, in their order."""

    def fingerprint(self) -> Provenance:
        """Plain data: everything that affects the output, including weights and versions."""

    def seconds_per_view(self, prompts: PromptSet) -> float | None:
        """Rough time of one window if it is long enough for a warning, else None."""
        return None


@dataclass(frozen=True)
class Backend:
    """Module and description of a backend."""

    module: str
    summary: str


SEGMENTERS: Mapping[str, Backend] = {
    "sam3": Backend("rscd.segmenters.sam3", "SAM 3 and SAM 3 LiteText; needs a GPU, weights gated"),
    "clipseg": Backend("rscd.segmenters.clipseg", "CLIPSeg: blurry, ungated, feasible on a CPU"),
    "buildings": Backend(
        "rscd.segmenters.buildings", "the shipped network: buildings, 0.1 to 1 m, offline"
    ),
    "precomputed": Backend(
        "rscd.segmenters.precomputed", "scores or objects found by another program, in files"
    ),
    "spectral": Backend(
        "rscd.segmenters.spectral", "colour and texture rules, no weights; demo only"
    ),
    "fake": Backend("rscd.segmenters.fake", "known masks with artificial faults, for experiments"),
}
"""Backends by name; each module has ``Options`` (a dataclass) and ``build(options)``."""


def find_backend(name: str) -> Backend:
    """A backend by name, with or without the ``ceg:`` of lists of models.

    Raises:
        UsageError: if it is unknown.
    """
    name = name.removeprefix(f"{CEG}:")
    if name not in SEGMENTERS:
        raise UsageError(
            f"expected a segmenter among {', '.join(SEGMENTERS)}, found {name!r}"
            "; choose one of them"
        )
    return SEGMENTERS[name]


def backend_options(name: str) -> dict[str, Any]:
    """Options of a backend with their defaults, None if there is none."""
    known = fields(import_module(find_backend(name).module).Options)
    return {f.name: None if f.default is MISSING else f.default for f in known}


def load_segmenter(
    name: str, options: Mapping[str, Any] | None = None, *, device: str | None = None
) -> Segmenter:
    """Load a backend by name; only its own libraries are imported.

    Args:
        name: one of `SEGMENTERS`.
        options: fields of the backend's ``Options``; text is converted to the type of the field.
        device: ``auto``, ``cpu`` or ``cuda``, for backends that run on one.

    Raises:
        UsageError: for an unknown backend or option, or an invalid value.
        ModelError: if weights or libraries are missing.
    """
    module = import_module(find_backend(name).module)
    given = dict(options or {})
    if device is not None and any(field.name == "device" for field in fields(module.Options)):
        given.setdefault("device", device)
    plain = {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in given.items()}
    segmenter: Segmenter = module.build(
        made(module.Options, plain, f"options of {name} (--segmenter-option)")
    )
    return segmenter


def check_prediction(prediction: SemanticPrediction, view: View, prompts: PromptSet) -> None:
    """Check that a backend kept its contract.

    Raises:
        ValueError: for a wrong shape or type, which is a bug in the backend, not a user error.
        ModelError: for scores that are not from 0 to 1.
    """
    expected = (len(prompts.classes), *view.rgb.shape[:2])
    prob = prediction.prob
    if prob.shape != expected or prob.dtype != np.float32:
        raise ValueError(f"expected float32 {expected}, found {prob.dtype} {prob.shape}")
    if prob.size and not (prob.min() >= 0 and prob.max() <= 1):
        raise ModelError(
            f"expected scores from 0 to 1 for {view.name or 'the image'} at {view.date}, found "
            f"{prob.min():g} to {prob.max():g}; the weights or rasters of the segmenter are broken"
        )
