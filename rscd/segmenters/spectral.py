"""Rules of colour and texture in place of a trained model: for demonstrations and dry runs.

RGB alone, no weights, deterministic. Bright roofs are found, and so are bare plots, driveways and
road edges; dark roofs and roofs wider than some 30 m are missed. No accuracy may be quoted from
it. Buildings: the morphological building index of Huang and Zhang (2011), on brightness.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rscd.base.errors import UsageError
from rscd.base.types import FloatArray, Provenance
from rscd.segmenters.prompts import ClassPrompt, PromptSet
from rscd.segmenters.segmenter import Segmenter, SegmenterInfo, SemanticPrediction, View

LENGTHS_M = (3.0, 5.0, 8.0, 12.0, 18.0, 25.0, 33.0)
"""Lengths of the lines of the building index: a roof is brighter than anything at this distance."""

WORDS = {
    "building": ("building", "buildings", "house", "houses", "roof", "rooftop"),
    "road": ("road", "street", "pavement"),
    "grass": ("grass", "lawn", "meadow", "vegetation"),
    "tree": ("tree", "trees", "forest", "vegetation"),
    "water": ("water", "river", "lake", "pond"),
}
"""Prompts to which each rule responds."""

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Options:
    """Assumptions of the rules."""

    gsd_m: float = 0.5
    """Pixel size in metres, if the image has none."""


def build(options: Options) -> "Spectral":
    """Build the segmenter; there is nothing to load."""
    return Spectral(options)


@dataclass(frozen=True)
class Spectral(Segmenter):
    """Segmenter that applies the rules."""

    options: Options = Options()

    @property
    def info(self) -> SegmenterInfo:
        """Windows as large as a scene: colours are balanced over each."""
        return SegmenterInfo("spectral", tile=1024, overlap=64, gamma=0.5, quality="demo")

    def fingerprint(self) -> Provenance:
        """The assumptions."""
        return {"options": asdict(self.options), "rules": 1}

    def predict(self, views: Sequence[View], prompts: PromptSet) -> list[SemanticPrediction]:
        """Apply the rules.

        Raises:
            UsageError: for a prompt to which no rule responds.
        """
        kinds = [_kind(prompt) for prompt in prompts.all]
        found = []
        for view in views:
            scores = rule_scores(view.rgb, view.gsd_m or self.options.gsd_m)
            prob = np.stack([scores[kind] for kind in kinds])
            found.append(SemanticPrediction(prob, prompts.classes, prompts.n_foreground))
        return found


def _kind(prompt: ClassPrompt) -> str:
    for kind, words in WORDS.items():
        if any(phrase.casefold() in words for phrase in prompt.phrases):
            return kind
    raise UsageError(
        f"expected prompts among {', '.join(WORDS)} for the segmenter spectral, which has only "
        f"fixed rules, found {prompt.name!r}; use another segmenter for it"
    )


def rule_scores(rgb: NDArray[np.uint8], gsd_m: float) -> dict[str, FloatArray]:
    """Scores in [0,1] of every rule.

    Args:
        rgb: (H,W,3) uint8.
        gsd_m: side of a pixel in metres.

    Returns:
        (H,W) float32 by the names of `WORDS`.
    """
    image = balanced(rgb)
    bright = image.max(axis=2)
    green = _ramp(*_excess_green(image))
    rough = _ramp(_local_deviation(bright, gsd_m), 0.08, 0.02)
    dark = bright <= np.quantile(bright, 0.08)
    water = _water(image, bright, rough) * (1 - green)
    built = _building_index(bright, gsd_m)
    cut = float(np.clip(_otsu(built), 0.2, 0.6))
    building = _ramp(built, cut, 0.08) * (1 - green) * (1 - water) * ~dark
    grey = 1 - _ramp(image.max(axis=2) - image.min(axis=2), 0.15, 0.03)
    road = grey * (1 - rough) * _ramp(bright, 0.35, 0.05) * (1 - green) * (1 - water)
    road *= 1 - building
    tree = green * np.maximum(rough, _ramp(float(np.median(bright)) - bright, 0.05, 0.03))
    scores = {
        "building": building,
        "road": road,
        "grass": green * (1 - tree),
        "tree": tree,
        "water": water,
    }
    return {name: np.clip(plane, 0, 1).astype(np.float32) for name, plane in scores.items()}


def balanced(rgb: NDArray[np.uint8]) -> Image:
    """(H,W,3) in [0,1]: channels stretched to a common median, with edge-preserving smoothing.

    Without it a green cast turns a whole date into vegetation, and two dates are not comparable.
    """
    image = rgb.astype(np.float32)
    low, high = np.percentile(image, (1, 99), axis=(0, 1))
    image = np.clip((image - low) / np.maximum(high - low, 1), 0, 1)
    medians = np.maximum(np.median(image, axis=(0, 1)), 0.05)
    image = np.clip(image * (medians.mean() / medians), 0, 1).astype(np.float32)
    return np.asarray(cv2.bilateralFilter(image, 5, 0.1, 2.0), np.float32)


def _ramp(values: Any, centre: float, width: float) -> Image:
    """Logistic step from 0 to 1 around ``centre``."""
    steep = np.clip((values - centre) / width, -30, 30)
    return np.asarray(1 / (1 + np.exp(-steep)), np.float32)


def _excess_green(image: Image) -> tuple[Image, float, float]:
    chromatic = image / np.maximum(image.sum(axis=2, keepdims=True), 0.05)
    index = 2 * chromatic[..., 1] - chromatic[..., 0] - chromatic[..., 2]
    return index, float(np.clip(_otsu(index), 0.03, 0.15)), 0.02


def _otsu(values: Image) -> float:
    """Threshold between two groups with the least variance inside (Otsu 1979)."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return low
    scaled = np.asarray((values - low) * (255 / (high - low)), np.uint8)
    level, _ = cv2.threshold(scaled, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return float(low + level * (high - low) / 255)


def _local_deviation(values: Image, gsd_m: float) -> Image:
    side = max(3, round(2.5 / gsd_m) | 1)
    mean = cv2.blur(values, (side, side))
    square = cv2.blur(values * values, (side, side))
    return np.asarray(np.sqrt(np.maximum(square - mean * mean, 0)), np.float32)


def _water(image: Image, bright: Image, rough: Image) -> Image:
    bluish = _ramp(image[..., 2] - image[..., 0], 0.08, 0.03)
    below = _ramp(float(np.median(bright)) - bright, 0.08, 0.03)
    return np.asarray(bluish * below * (1 - rough), np.float32)


def _building_index(bright: Image, gsd_m: float) -> Image:
    """(H,W) in [0,1]: differences between lengths of white top-hats by lines in four directions."""
    sizes = sorted({max(3, round(length / gsd_m) | 1) for length in LENGTHS_M})
    total: Image = np.zeros_like(bright)
    for kind in range(4):
        before: Image = np.zeros_like(bright)
        for size in sizes:
            hat = np.asarray(
                cv2.morphologyEx(bright, cv2.MORPH_TOPHAT, _line(size, kind)), np.float32
            )
            total += np.abs(hat - before)
            before = hat
    top = float(np.quantile(total, 0.99))
    return np.asarray(np.clip(total / max(top, 1e-6), 0, 1), np.float32)


def _line(size: int, kind: int) -> NDArray[np.uint8]:
    """A line through a square: horizontal, vertical and the two diagonals."""
    kernel = np.zeros((size, size), np.uint8)
    if kind == 0:
        kernel[size // 2] = 1
    elif kind == 1:
        kernel[:, size // 2] = 1
    else:
        np.fill_diagonal(kernel if kind == 2 else kernel[:, ::-1], 1)
    return kernel
