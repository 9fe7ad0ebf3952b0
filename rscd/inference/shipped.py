"""The network that ships with the package, and when it is the default."""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from rscd.base.errors import ModelError
from rscd.base.files import sha256_of
from rscd.base.types import Provenance
from rscd.inference.detectors.registry import DEFAULT_DETECTOR, ONE_BAND_DETECTOR

SHIPPED = "buildings"
"""Its name for ``-m``; the files are ``rscd/weights/buildings.*``."""
CHECKSUMS = {".safetensors": "sha256", ".onnx": "sha256_onnx"}
"""Its forms, for torch and for ONNX Runtime, and where the card says their checksums."""

GSD_RANGE_M = (0.1, 1.0)
"""Resolutions it is made for."""
GSD_TOLERANCE = 0.02
"""Relative: a pixel of 0.0995 m is one of 0.1 m."""
MIN_BANDS = 3


@dataclass(frozen=True)
class SceneFacts:
    """Facts about a scene that are known before a pixel is read."""

    n_bands: int
    gsd_m: float | None
    """Pixel size in metres, from its georeferencing or the user."""
    georeferenced: bool
    eight_bit: bool
    """Whether both dates have 8-bit values."""
    one_type: bool = True
    """Whether both dates are stored in one type, so that one rule converts both to 8 bits."""


def default_model(scene: SceneFacts) -> tuple[str, str]:
    """The default model for a scene.

    Returns:
        Its name, and one line with the reason.
    """
    low, high = GSD_RANGE_M
    range_text = f"{low:g} to {high:g} m"
    if scene.n_bands == 1:
        return ONE_BAND_DETECTOR, f"images of one band; {DEFAULT_DETECTOR} needs two"
    if scene.n_bands < MIN_BANDS:
        return DEFAULT_DETECTOR, f"{SHIPPED} needs {MIN_BANDS} bands, found {scene.n_bands}"
    if scene.gsd_m is None:
        if scene.georeferenced:
            return DEFAULT_DETECTOR, f"{SHIPPED} needs a pixel size, found none; give --gsd METRES"
        size = shipped_card()["gsd_m"]
        return SHIPPED, f"{scene.n_bands} bands; pixels of {size:g} m assumed, else give --gsd"
    if not low * (1 - GSD_TOLERANCE) <= scene.gsd_m <= high * (1 + GSD_TOLERANCE):
        return (
            DEFAULT_DETECTOR,
            f"{SHIPPED} is trained for pixels of {range_text}, found {scene.gsd_m:.3g} m",
        )
    return SHIPPED, f"{scene.n_bands} bands of {scene.gsd_m:.3g} m"


def shipped_path(suffix: str = ".safetensors") -> Path:
    """Path of the weights in one of the forms of `CHECKSUMS`."""
    return Path(str(files("rscd") / "weights" / f"{SHIPPED}{suffix}"))


def shipped_card() -> Provenance:
    """Card and checksums of the weights."""
    card: Provenance = json.loads(shipped_path().with_suffix(".json").read_text(encoding="utf-8"))
    return card


def weights_path(name: str) -> Path:
    """The file of a network by its name or path; that of `SHIPPED` is checked.

    Raises:
        ModelError: see `shipped_weights`.
    """
    return shipped_weights() if name == SHIPPED else Path(name)


def shipped_weights(suffix: str = ".safetensors") -> Path:
    """Path of the weights in one of the forms of `CHECKSUMS`, whose content is checked.

    Raises:
        ModelError: if the file is not the released one.
    """
    path = shipped_path(suffix)
    found = sha256_of(path) if path.is_file() else "no file"
    if found != shipped_card()[CHECKSUMS[suffix]]:
        raise ModelError(
            f"expected the weights that ship with rscd in {path}, found others ({found[:12]}); "
            "install rscd again"
        )
    return path
