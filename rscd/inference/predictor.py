"""Protocols of models that turn pixels into change probabilities."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rscd.base.types import BoolArray, FloatArray, Provenance, ShapeHW


@dataclass(frozen=True)
class Block:
    """One piece of the fixed lattice over which global statistics are gathered.

    The lattice does not depend on tile size, batch size or workers, so neither do statistics.
    ``image`` and ``valid`` include ``halo`` extra pixels on every side (reflected at scene edges,
    with ``valid`` false there).
    """

    index: int
    """Position in row-major order from 0; seeds the sampling within the block."""
    image: FloatArray
    """(2, C, h + 2 halo, w + 2 halo) raw values."""
    valid: BoolArray
    """(h + 2 halo, w + 2 halo) whether usable at both dates."""
    halo: int


@dataclass(frozen=True)
class Tiling:
    """How a scene is tiled for a model."""

    halo: int = 0
    """Context in pixels per side on which the result at a pixel depends."""
    multiple: int = 1
    """Heights and widths it accepts are multiples of this."""
    tile_size: int = 1024
    """Default side of a tile; results do not depend on it."""
    batch_size: int = 1
    """Likewise."""
    bytes_per_pixel: int = 32
    """Working memory per pixel of the batch, in addition to the image itself."""
    fit_bytes: int = 0
    """Working memory of `Model.fit` in addition to one block per worker."""
    exact: bool = True
    """Whether the halo covers the whole receptive field of a pixel; if not, results depend slightly
    on the tiling, and the difference is measured and reported."""
    whole_pictures: bool = False
    """Whether pictures without georeferencing are best predicted whole, up to `MAX_PICTURE`."""
    patch: int = 0
    """Side of the images a network was trained on; 0 if it has none."""

    def in_one_pass(self, shape_hw: ShapeHW) -> bool:
        """Whether an image is predicted as in training: alone, without reflected surroundings.

        That is the protocol of published results. It matters only where a result depends on more
        than the halo; elsewhere the surroundings of a tile give the same as those of the image.
        """
        return not self.exact and max(shape_hw) <= self.patch


MAX_PICTURE = 2048
"""Longest side of a picture that is predicted in one piece."""


def tile_side(tiling: Tiling, shape_hw: ShapeHW, *, picture: bool) -> int:
    """Side of the tiles if the user does not choose one.

    Args:
        tiling: of the model.
        shape_hw: size of the whole image.
        picture: whether it is a picture without georeferencing, which is predicted in one piece if
            the model prefers that, up to `MAX_PICTURE`.
    """
    longest = max(shape_hw)
    if tiling.whole_pictures and picture and longest <= MAX_PICTURE:
        return longest
    if tiling.in_one_pass(shape_hw):
        return longest
    return tiling.tile_size


POINTWISE = Tiling()
"""Tiling of models that use one pixel at a time."""


def least_object(
    card: Provenance,
    *,
    size_known: bool,
    own_threshold: bool,
    min_area_m2: float | None = None,
    min_score: float | None = None,
) -> tuple[float, float]:
    """Area in square metres and score below which a model's polygons are omitted.

    Args:
        card: of the model, which may name both: below them its polygons are meaningless.
        size_known: whether the pixel size is known, without which there are no areas.
        own_threshold: whether change is decided at the model's threshold, to which its score
            belongs.
        min_area_m2: the user's value, which takes precedence.
        min_score: the user's value, which takes precedence.
    """
    if min_area_m2 is None:
        min_area_m2 = float(card.get("min_area_m2", 0.0)) if size_known else 0.0
    if min_score is None:
        min_score = float(card.get("min_score", 0.0)) if own_threshold else 0.0
    return min_area_m2, min_score


@dataclass(frozen=True)
class Expected:
    """What a model wants a scene to be: 8-bit values of these bands."""

    n_bands: int
    gsd_m: float | None
    """Pixel size in metres; None: any."""


@runtime_checkable
class Particular(Protocol):
    """A model that scenes are adapted to, see `rscd.inference.adapted`."""

    def expects(self, n_bands: int) -> Expected | None:
        """What it wants of a scene with that many bands; None: nothing is known."""


class Predictor(Protocol):
    """A ready model. Picklable; safe to call from several threads."""

    @property
    def threshold(self) -> float:
        """The automatic threshold: a pixel is change where its probability is at or above it."""

    @property
    def tiling(self) -> Tiling:
        """How a scene is tiled for the model."""

    def __call__(self, image: FloatArray, valid: BoolArray) -> FloatArray:
        """Predict change.

        Args:
            image: (B,2,C,H,W) float32 raw values, t1 first. Invalid pixels are 0.
            valid: (B,H,W) bool, true where both dates can be used.

        Returns:
            (B,H,W) float32 change probability in [0,1].
        """


class Model(Protocol):
    """A model as named with ``--model``; fitted to a scene it becomes a `Predictor`."""

    @property
    def name(self) -> str:
        """Value of ``-m``, and of the column ``model`` in results."""

    @property
    def summary(self) -> str:
        """One line for ``rscd model list``."""

    @property
    def tiling(self) -> Tiling:
        """How a scene is tiled for the model."""

    def card(self) -> Provenance:
        """Plain data that identifies the model: its name, parameters, and hash of its weights."""

    def fit(self, blocks: Iterable[Block], n_pixels: int) -> Predictor:
        """Gather statistics of the whole scene, in bounded memory.

        Args:
            blocks: the scene in fixed blocks, in row-major order; each iteration is a pass over the
                scene, and one is enough for all models alone. A model that needs no global
                statistics does not iterate over them, which saves the pass.
            n_pixels: height x width of the scene, to plan a sampling rate.
        """
