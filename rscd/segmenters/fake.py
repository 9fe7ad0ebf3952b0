"""A segmenter of tunable quality: known masks with artificial faults.

For tests, and for experiments on the effect of missed objects, false objects, ragged outlines and
misregistration on change events. Every fault depends only on the seed, the pair, the date and the
object, so that the same call gives the same faults.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rscd.base.arguments import check_range
from rscd.base.errors import UsageError
from rscd.base.types import BoolArray, FloatArray, Provenance
from rscd.segmenters.instances import Instance, components
from rscd.segmenters.precomputed import Options as PrecomputedOptions
from rscd.segmenters.precomputed import build as build_precomputed
from rscd.segmenters.prompts import PromptSet
from rscd.segmenters.segmenter import Segmenter, SegmenterInfo, SemanticPrediction, View

Truth = Callable[[View, PromptSet], FloatArray]
"""View -> (C,h,w): 1 where a class is present, 0 elsewhere."""

SOFT_PX = 3.0
"""Distance from an outline, in pixels, at which scores reach their full confidence."""


@dataclass(frozen=True)
class Faults:
    """Faults of the segmenter; by default there are none."""

    missed: float = 0.0
    """Fraction of the objects that are missed."""
    invented: float = 0.0
    """False objects, as a fraction of the true ones."""
    ragged_px: float = 0.0
    """Standard deviation of the outlines in pixels."""
    shift_px: float = 0.0
    """Displacement of t2 to the right and down, in pixels along each axis."""
    confidence: float = 0.95
    """Score deep inside a class; elsewhere it falls towards 1 - confidence."""
    doubt: float = 0.0
    """Standard deviation of the confidence from object to object."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, ("missed", "confidence"), 0, 1)
        check_range(self, ("invented", "ragged_px", "doubt"))


@dataclass(frozen=True)
class Options(Faults):
    """Faults, and the folder of true masks (see `rscd.segmenters.precomputed`)."""

    folder: str = ""
    missing: str = "error"


def build(options: Options) -> "FakeSegmenter":
    """A fake segmenter over masks on disk.

    Raises:
        UsageError: if there is no folder.
    """
    if not options.folder:
        raise UsageError(
            "expected the folder of true masks, found none; add --segmenter-option folder=DIR"
        )
    truth = build_precomputed(PrecomputedOptions(options.folder, options.missing))
    names = Faults.__dataclass_fields__
    faults = Faults(**{name: getattr(options, name) for name in names})
    return FakeSegmenter(truth.planes, faults, truth.fingerprint())


@dataclass(frozen=True)
class FakeSegmenter(Segmenter):
    """Returns the truth with faults."""

    truth: Truth
    faults: Faults = Faults()
    source: Provenance = field(default_factory=dict)
    """Identity of the source of the truth."""

    @property
    def info(self) -> SegmenterInfo:
        """Whole images, so that the faults of objects do not depend on windows."""
        return SegmenterInfo("fake", native_instances=True, gamma=0.8, quality="demo")

    def fingerprint(self) -> Provenance:
        """The faults and the source."""
        return {"faults": asdict(self.faults), "source": self.source}

    def predict(self, views: Sequence[View], prompts: PromptSet) -> list[SemanticPrediction]:
        """Apply the faults to the truth of each view."""
        return [self._one(view, prompts) for view in views]

    def _one(self, view: View, prompts: PromptSet) -> SemanticPrediction:
        planes = self.truth(view, prompts) > 0.5
        n_front = prompts.n_foreground
        rng = self._rng(view)
        prob = np.empty(planes.shape, np.float32)
        instances: list[Instance] = []
        covered = np.zeros(planes.shape[1:], bool)
        for index in range(n_front):
            objects = [replace(i, class_index=index) for i in self._objects(planes[index], rng)]
            prob[index], found = self._render(objects, planes.shape[1:], rng)
            covered |= prob[index] >= 0.5
            instances += found
        # former foreground becomes the surrounding background
        nearest = _nearest(planes, n_front)
        for index in range(n_front, len(planes)):
            prob[index] = self._scores((nearest == index) & ~covered, self.faults.confidence)
        shift = self.faults.shift_px if view.date == "t2" else 0.0
        if shift:
            by = (shift, shift)
            moved_planes = [ndimage.shift(p, by, order=1, mode="nearest") for p in prob]
            prob = np.clip(np.stack(moved_planes), 0, 1)
            instances = [
                moved for i in instances if (moved := _moved_instance(i, shift, prob.shape[1:]))
            ]
        return SemanticPrediction(prob, prompts.classes, n_front, instances)

    def _objects(self, plane: BoolArray, rng: np.random.Generator) -> list[Instance]:
        """Objects of one class: the true ones without the missed ones, plus false ones."""
        true = components(plane)
        pad = int(3 * self.faults.ragged_px) + 1
        seen = [_padded(i, pad, plane.shape) for i in true if rng.random() >= self.faults.missed]
        seen = [replace(i, mask=self._ragged(i.mask, rng)) for i in seen]
        n_invented = rng.poisson(self.faults.invented * len(true))
        seen += [_rectangle(plane.shape, rng) for _ in range(n_invented)]
        return [instance for instance in seen if instance.area_px]

    def _ragged(self, mask: BoolArray, rng: np.random.Generator) -> BoolArray:
        if not self.faults.ragged_px:
            return mask
        noise = ndimage.gaussian_filter(rng.standard_normal(mask.shape), 2.0)
        noise *= self.faults.ragged_px / max(float(noise.std()), 1e-9)
        ragged: BoolArray = _depth(mask) + noise > 0
        return ragged

    def _render(
        self, objects: list[Instance], shape: tuple[int, ...], rng: np.random.Generator
    ) -> tuple[FloatArray, list[Instance]]:
        """Scores of one class (H,W), and its objects with their scores."""
        best = np.full(shape, 1 - self.faults.confidence, np.float32)
        found = []
        for instance in objects:
            trust = float(np.clip(rng.normal(self.faults.confidence, self.faults.doubt), 0.5, 1))
            wide = _padded(instance, int(SOFT_PX) + 1, shape)
            part = best[wide.slices]
            np.maximum(part, self._scores(wide.mask, trust), out=part)
            found.append(replace(instance, score=trust))
        return best, found

    def _scores(self, mask: BoolArray, confidence: float) -> FloatArray:
        scores = 0.5 + (confidence - 0.5) * np.clip(_depth(mask) / SOFT_PX, -1, 1)
        return np.asarray(scores, np.float32)

    def _rng(self, view: View) -> np.random.Generator:
        text = f"{self.faults.seed} {view.name} {view.date}"
        digest = hashlib.sha256(text.encode()).digest()
        return np.random.default_rng(np.frombuffer(digest, np.uint32))


def _depth(mask: BoolArray) -> FloatArray:
    """(H,W) float32 signed distance to the outline in pixels, positive inside."""
    if not mask.any():
        return np.full(mask.shape, -np.inf, np.float32)
    if mask.all():
        return np.full(mask.shape, np.inf, np.float32)
    inside = ndimage.distance_transform_edt(mask) - 0.5
    outside = ndimage.distance_transform_edt(~mask) - 0.5
    return np.asarray(np.where(mask, inside, -outside), np.float32)


def _padded(instance: Instance, pad: int, shape: tuple[int, ...]) -> Instance:
    """The same object in a box enlarged by ``pad`` pixels, within the image."""
    x0, y0, x1, y1 = instance.bbox
    left, top = max(0, x0 - pad), max(0, y0 - pad)
    right, bottom = min(shape[1], x1 + pad), min(shape[0], y1 + pad)
    margins = ((y0 - top, bottom - y1), (x0 - left, right - x1))
    return replace(instance, bbox=(left, top, right, bottom), mask=np.pad(instance.mask, margins))


def _rectangle(shape: tuple[int, ...], rng: np.random.Generator) -> Instance:
    """An object of 8 to 24 pixels a side at a random position."""
    sizes = [min(int(rng.integers(8, 25)), size) for size in shape]
    row, col = (int(rng.integers(0, n - s + 1)) for n, s in zip(shape, sizes, strict=True))
    box = (col, row, col + sizes[1], row + sizes[0])
    return Instance(0, 1.0, box, np.ones(sizes, bool))


def _nearest(planes: BoolArray, n_front: int) -> NDArray[np.intp]:
    """(H,W) index of the background class at or nearest to each pixel; -1 if there is none."""
    behind = planes[n_front:]
    known = behind.any(axis=0)
    if not known.any():
        return np.full(planes.shape[1:], -1)
    classes = behind.argmax(axis=0) + n_front
    rows, cols = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.asarray(classes[rows, cols])


def _moved_instance(instance: Instance, shift: float, shape: tuple[int, ...]) -> Instance | None:
    """The object displaced; None if it leaves the image."""
    wide = _padded(instance, int(abs(shift)) + 1, shape)
    moved = ndimage.shift(wide.mask.astype(np.float32), (shift, shift), order=1) >= 0.5
    return replace(wide, mask=moved) if moved.any() else None
