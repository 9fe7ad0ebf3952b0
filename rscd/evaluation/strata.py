"""Strata of a change map, and pixels drawn from each at random, in bounded memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy.ndimage import maximum_filter

from rscd.base.errors import DataError, UsageError
from rscd.base.types import IGNORE, ByteArray, Float64Array, Progress, silent
from rscd.evaluation.layers import Reader
from rscd.geo.grid import shape_hw
from rscd.geo.measure import PixelAreas, ground_of
from rscd.geo.tiles import Box, plan_tiles

CHANGE, NEAR, NO_CHANGE = "change", "near", "no-change"
STRATA = (CHANGE, NEAR, NO_CHANGE)
"""Mapped change; mapped no change close to it, where most of what a map misses lies (Olofsson et
al. 2020, Remote Sensing of Environment 236); the rest."""

NEAR_PX = 5
"""How many pixels around change are ``near``, where nothing else is asked for."""

LEAST = 50
"""Points in each stratum, where nothing else is asked for."""

SQUARE_PX = 1024
"""Side of the squares that are read. Which pixels are drawn depends on it."""


@dataclass(frozen=True)
class Strata:
    """How the pixels of a change map are divided."""

    names: tuple[str, ...] = STRATA
    near_px: int = NEAR_PX

    def __post_init__(self) -> None:
        if set(self.names) - set(STRATA) or len(set(self.names)) < len(self.names):
            raise UsageError(
                f"expected --strata of {', '.join(STRATA)}, each once, found "
                f"{', '.join(self.names)}; correct it"
            )
        if not {CHANGE, NO_CHANGE} <= set(self.names):
            raise UsageError(
                f"expected --strata with {CHANGE} and {NO_CHANGE}, which all pixels belong to, "
                f"found {', '.join(self.names)}; add the other"
            )

    @property
    def halo(self) -> int:
        """Pixels around a box that say which of its pixels are near change."""
        return self.near_px if NEAR in self.names else 0

    def divide(self, classes: ByteArray) -> ByteArray:
        """The stratum of each pixel.

        Args:
            classes: (h,w) 0 no change, 1 change, 255 nodata.

        Returns:
            (h,w) positions in ``names``; 255 for nodata.
        """
        place = {name: index for index, name in enumerate(self.names)}
        found = np.full(classes.shape, IGNORE, np.uint8)
        found[classes == 0] = place[NO_CHANGE]
        if self.halo:
            close = maximum_filter((classes == 1).astype(np.uint8), 2 * self.halo + 1)
            found[(classes == 0) & (close == 1)] = place[NEAR]
        found[classes == 1] = place[CHANGE]
        return found


@dataclass(frozen=True, eq=False)
class Census:
    """All pixels of a map by stratum."""

    boxes: Sequence[Box]
    pixels: NDArray[np.int64]
    """(B,H) in each box."""
    areas_m2: Float64Array
    """(H,) square metres on the ground; NaN where the pixel size is unknown."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(H,) pixels of each stratum."""
        found: NDArray[np.int64] = self.pixels.sum(axis=0)
        return found


@dataclass(frozen=True, eq=False)
class Drawn:
    """Pixels drawn at random, in the order of the map."""

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    stratum: NDArray[np.intp]


def count_strata(read: Reader, grid: GeoBox, strata: Strata, progress: Progress = silent) -> Census:
    """Count the pixels of each stratum and measure its area.

    Args:
        read: classes of the map: 0, 1, and 255 for nodata.
        grid: of the map.
        strata: how it is divided.
        progress: progress callback, called after each square.
    """
    boxes = [tile.write for tile in plan_tiles(shape_hw(grid), SQUARE_PX)]
    pixel_areas = ground_of(grid).pixel_areas_m2(shape_hw(grid))
    pixels = np.zeros((len(boxes), len(strata.names)), np.int64)
    areas = np.zeros(len(strata.names))
    for number, box in enumerate(boxes):
        found = _strata_in(read, grid, strata, box)
        pixels[number] = np.bincount(found.ravel(), minlength=256)[: len(strata.names)]
        for index in np.flatnonzero(pixels[number]):
            areas[index] += _area_of(pixel_areas, found == index, box)
        progress("reading", number + 1, len(boxes))
    return Census(boxes, pixels, areas)


def _area_of(pixel_areas: PixelAreas, mask: NDArray[np.bool_], box: Box) -> float:
    return pixel_areas.total(mask, box.row, box.col)


def _strata_in(read: Reader, grid: GeoBox, strata: Strata, box: Box) -> ByteArray:
    """(h,w) strata of a box, the same however the map is cut."""
    halo = strata.halo
    around = Box(box.row - halo, box.col - halo, box.height + 2 * halo, box.width + 2 * halo)
    seen = around.common(Box(0, 0, *shape_hw(grid)))
    top, left = box.row - seen.row, box.col - seen.col
    found = strata.divide(read(seen))
    return found[top : top + box.height, left : left + box.width]


def allocate(sizes: Mapping[str, int], number: int, least: int = LEAST) -> dict[str, int]:
    """How many points each stratum gets: a minimum, and the rest by its number of pixels.

    Args:
        sizes: pixels by stratum.
        number: points in all.
        least: points in each stratum; a smaller stratum gets one for each of its pixels.

    Raises:
        UsageError: the minimum alone takes more points.
        DataError: there are fewer pixels than points.
    """
    floor = {name: min(size, least) for name, size in sizes.items()}
    if sum(floor.values()) > number:
        raise UsageError(
            f"expected at least {sum(floor.values())} points for {least} in each of "
            f"{len(sizes)} strata, found -n {number}; raise it, or lower --min-per-stratum"
        )
    if sum(sizes.values()) < number:
        raise DataError(
            f"expected at least {number} pixels with data to draw from, found "
            f"{sum(sizes.values())}; lower -n"
        )
    given = dict(floor)
    while rest := number - sum(given.values()):
        room = {name: size - given[name] for name, size in sizes.items()}
        whole = sum(sizes[name] for name in sizes if room[name])
        ideal = {name: rest * sizes[name] / whole for name in sizes if room[name]}
        more = {name: min(room[name], int(part)) for name, part in ideal.items()}
        if not any(more.values()):  # fewer points than strata are left
            first = max(ideal, key=lambda name: ideal[name])
            more = {first: 1}
        given |= {name: given[name] + extra for name, extra in more.items()}
    return given


def draw(
    read: Reader,
    grid: GeoBox,
    strata: Strata,
    census: Census,
    points: Sequence[int],
    random: np.random.Generator,
) -> Drawn:
    """Draw pixels in each stratum, each with the same probability, without replacement.

    Only boxes that hold a drawn pixel are read again.

    Args:
        read: as for `count_strata`.
        grid: of the map.
        strata: how it is divided.
        census: of the same map.
        points: (H,) how many of each stratum.
        random: random generator.
    """
    before = np.vstack([np.zeros_like(census.pixels[:1]), census.pixels.cumsum(axis=0)])
    ranks = [
        np.sort(random.choice(int(size), wanted, replace=False, shuffle=False))
        for size, wanted in zip(census.sizes, points, strict=True)
    ]
    parts = list(_picked(read, grid, strata, census, before, ranks))
    rows, cols, stratum = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Drawn(rows, cols, stratum.astype(np.intp))


def _picked(
    read: Reader,
    grid: GeoBox,
    strata: Strata,
    census: Census,
    before: NDArray[np.int64],
    ranks: Sequence[NDArray[np.int64]],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Rows, columns and strata of the pixels with some ranks, box by box."""
    for number, box in enumerate(census.boxes):
        ends = [np.searchsorted(own, before[number : number + 2, h]) for h, own in enumerate(ranks)]
        if all(first == last for first, last in ends):
            continue
        found = _strata_in(read, grid, strata, box).ravel()
        for h, (first, last) in enumerate(ends):
            if first == last:
                continue
            here = np.flatnonzero(found == h)
            if len(here) != census.pixels[number, h]:
                raise DataError("expected a map that stays as it is, found another; repeat")
            place = here[ranks[h][first:last] - before[number, h]]
            row, col = np.divmod(place, box.width)
            yield row + box.row, col + box.col, np.full(len(place), h)
