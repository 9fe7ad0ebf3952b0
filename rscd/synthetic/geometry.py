"""Affine, homography and thin-plate-spline views of one background, with their exact flow.

A pair consists of two views of one large background: t1 shows the part that a ``Frame`` selects,
and t2 shows at pixel p what t1 shows at ``p + flow(p)``. Normalised coordinates run from -1 at the
centre of the first pixel to 1 at the centre of the last one. The published generator of the
scene-change data builds its affine grids half a pixel off that convention; here every transform
follows it (scene change, section 8.1).

Arrays are channel first, points are (..., 2) in x, y order. Positions are float64, the resulting
flow is float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates

from rscd.base.errors import UsageError
from rscd.base.types import BoolArray, FloatArray, ShapeHW

Points = NDArray[np.float64]
Transform = Literal["affine", "homography", "tps"]

CONTROL_POINTS: Points = np.array([(x, y) for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)])
"""Regular 3 x 3 grid of the thin-plate spline, (9,2), x outermost."""

VIEW_SHARE = 0.8 * 9 / 16
"""Fraction of the background's half extent that an affine or spline view shows."""


def pixel_points(shape_hw: ShapeHW) -> Points:
    """Coordinates of every pixel centre: (H,W,2) in x, y."""
    y, x = np.mgrid[: shape_hw[0], : shape_hw[1]]
    return np.stack([x, y], axis=-1).astype(np.float64)


def sample(image: FloatArray, points: Points) -> FloatArray:
    """Sample (C,H,W) at (h,w,2) pixel positions: bilinear, taps outside count as zero.

    Uses SciPy because ``cv2.remap`` rounds positions to 1/32 pixel in OpenCV 4.
    """
    at = [points[..., 1], points[..., 0]]
    channels = [map_coordinates(c, at, order=1, mode="grid-constant") for c in image]
    return np.stack(channels).astype(np.float32)


def inside(flow: FloatArray) -> BoolArray:
    """True where ``p + flow(p)`` is within the frame, including borders: (2,H,W) to (H,W)."""
    height, width = flow.shape[1:]
    x, y = np.moveaxis(pixel_points((height, width)).astype(np.float32), -1, 0) + flow
    within: BoolArray = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return within


@dataclass(frozen=True)
class Frame:
    """Position of a square view in its background: view pixel p is at ``scale * p + offset``.

    Attributes:
        size: side of the view in pixels.
        scale_xy: background pixels per view pixel.
        offset_xy: background position of the view's first pixel centre.
    """

    size: int
    scale_xy: tuple[float, float]
    offset_xy: tuple[float, float]

    def points(self, flow: FloatArray | None = None) -> Points:
        """Background positions (size,size,2) of the view's pixels, displaced by ``flow``."""
        at = pixel_points((self.size, self.size))
        if flow is not None:
            at = at + np.moveaxis(flow.astype(np.float64), 0, -1)
        points: Points = at * np.array(self.scale_xy) + np.array(self.offset_xy)
        return points


def central_frame(background_hw: ShapeHW, size: int) -> Frame:
    """The central crop at full resolution (homography pairs)."""
    top, left = (background_hw[0] - size) // 2, (background_hw[1] - size) // 2
    return Frame(size, (1.0, 1.0), (float(left), float(top)))


def scaled_frame(background_hw: ShapeHW, size: int, share: float = VIEW_SHARE) -> Frame:
    """The central fraction ``share`` of the background in both axes (affine and spline pairs)."""
    width, height = background_hw[1] - 1, background_hw[0] - 1
    return Frame(
        size,
        (share * width / (size - 1), share * height / (size - 1)),
        ((1 - share) * width / 2, (1 - share) * height / 2),
    )


def affine_flow(theta: ArrayLike, size: int) -> FloatArray:
    """Flow of ``T(n) = theta @ (nx, ny, 1)`` in normalised coordinates.

    Args:
        theta: (2,3).
        size: side S of the view.

    Returns:
        (2,S,S) pixels.
    """
    matrix = np.asarray(theta, dtype=np.float64)
    return _normalized_flow(lambda n: n @ matrix[:, :2].T + matrix[:, 2], size)


def tps_flow(targets: ArrayLike, size: int) -> FloatArray:
    """Flow of the thin-plate spline that moves ``CONTROL_POINTS`` to ``targets``.

    Args:
        targets: 18 normalised numbers, the nine x and then the nine y, in the order of
            ``CONTROL_POINTS``.
        size: side S of the view.

    Returns:
        (2,S,S) pixels.
    """
    return _normalized_flow(lambda n: tps_points(targets, n), size)


def tps_points(targets: ArrayLike, points: Points) -> Points:
    """Move (...,2) normalised points by the spline through the control points.

    ``T(n) = a0 + a1 nx + a2 ny + sum_k w_k U(|n - P_k|^2)`` with ``U(r2) = r2 ln r2``, from the
    standard 12 x 12 system without regularisation.
    """
    affine = np.column_stack([np.ones(9), CONTROL_POINTS])
    system = np.block([[_radial(CONTROL_POINTS), affine], [affine.T, np.zeros((3, 3))]])
    wanted = np.asarray(targets, dtype=np.float64).reshape(2, 9).T
    weights = np.linalg.solve(system, np.vstack([wanted, np.zeros((3, 2))]))
    ones = np.ones((*points.shape[:-1], 1))
    moved: Points = np.concatenate([_radial(points), ones, points], axis=-1) @ weights
    return moved


def homography_flow(
    matrix: ArrayLike, size: int, offset_xy: tuple[float, float] = (0, 0)
) -> FloatArray:
    """Flow, in a view of the whole image, of the pixel map ``p -> matrix @ (x, y, 1)``.

    Args:
        matrix: (3,3), from t2 pixels to t1 pixels of the whole image.
        size: side S of the view.
        offset_xy: position of the view in the whole image.

    Returns:
        (2,S,S) pixels.
    """
    points = pixel_points((size, size)) + np.asarray(offset_xy)
    homogeneous = np.concatenate([points, np.ones((size, size, 1))], axis=-1)
    mapped = homogeneous @ np.asarray(matrix, dtype=np.float64).T
    # the published generator guards its divisor in this way, which affects its flows
    return _as_flow(mapped[..., :2] / (mapped[..., 2:] + 1e-8) - points)


def random_flow(
    rng: np.random.Generator,
    transform: Transform,
    size: int,
    *,
    strength: float = 1.0,
    min_valid: float = 0.5,
) -> FloatArray:
    """Draw a flow with the statistics of the published list (section 8.2).

    Args:
        rng: random generator.
        transform: family of the transform.
        size: side S of the view.
        strength: factor on every range; 1 is the published list, 0.3 suits nearly equal viewpoints.
        min_valid: flows that leave a smaller fraction of t1 in view are drawn again.

    Returns:
        (2,S,S) pixels.

    Raises:
        UsageError: if no flow keeps enough of t1 in view.
    """
    draws: dict[str, Callable[[], FloatArray | None]] = {
        "affine": lambda: affine_flow(random_affine(rng, strength), size),
        "tps": lambda: tps_flow(
            CONTROL_POINTS.T.ravel() + strength * rng.uniform(-0.35, 0.35, 18), size
        ),
        "homography": lambda: _random_homography_flow(rng, size, strength),
    }
    for _ in range(200):
        flow = draws[transform]()
        if flow is not None and inside(flow).mean() >= min_valid:
            return flow
    raise UsageError(
        f"expected a {transform} flow with {min_valid:.0%} of t1 in view, found none in 200 draws "
        f"at strength {strength}; lower the strength"
    )


def random_affine(
    rng: np.random.Generator, strength: float = 1.0, *, max_shift: float = 0.25
) -> NDArray[np.float64]:
    """Rotation, anisotropic scale and shift: (2,3) in normalised coordinates."""
    turn, skew = np.radians(rng.uniform(-15, 15, 2)) * strength
    stretch = np.diag(1 + strength * rng.uniform(-0.25, 0.25, 2))
    linear = _rotation(turn) @ _rotation(-skew) @ stretch @ _rotation(skew)
    return np.column_stack([linear, strength * rng.uniform(-max_shift, max_shift, 2)])


def random_homography(
    rng: np.random.Generator, size: int, strength: float = 1.0
) -> NDArray[np.float64]:
    """The map that moves the corners of the view by up to a third of its side: (3,3) pixels.

    The published list was made in another way and only its statistics are known: U(-0.25,0.25)
    gives mean flows of 0.10, 0.14, 0.21 (10, 50, 90 %) where the list has 0.11, 0.18, 0.28, and a
    third matches these within 0.02.
    """
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], dtype=np.float64) * (size - 1)
    moved = corners + size * strength * rng.uniform(-0.33, 0.33, (4, 2))
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32))
    return np.asarray(matrix, dtype=np.float64)


def _random_homography_flow(
    rng: np.random.Generator, size: int, strength: float
) -> FloatArray | None:
    matrix = random_homography(rng, size, strength)
    corners = np.array([(0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)]) * (size - 1, size - 1, 1)
    # the divisor is linear in x and y: if positive at the corners, it is positive in the whole view
    return homography_flow(matrix, size) if (corners @ matrix[2] > 0).all() else None


def _normalized_flow(transform: Callable[[Points], Points], size: int) -> FloatArray:
    points = pixel_points((size, size))
    moved = transform(2 * points / (size - 1) - 1)
    return _as_flow((moved + 1) * (size - 1) / 2 - points)


def _as_flow(displacement: Points) -> FloatArray:
    return np.ascontiguousarray(np.moveaxis(displacement, -1, 0), dtype=np.float32)


def _radial(points: Points) -> Points:
    """``U(r2)`` from (...,2) points to each control point: (...,9)."""
    squared = ((points[..., None, :] - CONTROL_POINTS) ** 2).sum(-1)
    radial: Points = squared * np.log(np.where(squared == 0, 1.0, squared))
    return radial


def _rotation(angle: float) -> NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
