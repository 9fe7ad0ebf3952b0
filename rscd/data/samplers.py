"""TorchGeo's samplers, without skipping small scenes.

``GridGeoSampler`` and ``RandomGeoSampler`` silently skip scenes smaller than a patch;
``GriddedPatchSampler`` of 0.10 does so if the stride is small, ``RandomPatchSampler`` if the patch
does not fit in any orientation. Rounding makes grids extend a row beyond the scene. Use

    Guarded(GridGeoSampler, scenes, size=256)

instead of ``GridGeoSampler(scenes, size=256)``, and likewise for the others.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import geopandas
import numpy as np
import shapely
import torch
from torch.utils.data import Sampler
from torchgeo.datasets import GeoDataset
from torchgeo.samplers import GridGeoSampler, RandomGeoSampler

from rscd.base.errors import DataError

Query = tuple[slice, ...]
PatchSize = int | tuple[int, int]

LEAST_PX = 0.5
"""Patches that overlap every scene by less than this are skipped."""


class _Indexed(GeoDataset):
    """The attributes that a sampler uses: an index and a pixel size."""

    def __init__(self, index: geopandas.GeoDataFrame, res: tuple[float, float]) -> None:
        self.index = index
        self._res = res

    def __getitem__(self, query: Any) -> dict[str, Any]:
        raise IndexError("this dataset only provides an index for samplers")


@contextmanager
def _no_advice() -> Iterator[None]:
    # 0.10 renames its samplers; only the old ones also handle time
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


class Guarded(Sampler[Query]):
    """One of TorchGeo's samplers (0.8 to 0.10) that reaches every scene.

    Patches may extend beyond a scene, where :class:`rscd.data.scenes.ScenePairs` pads them.
    """

    def __init__(
        self,
        kind: Callable[..., Any],
        dataset: GeoDataset,
        *,
        size: PatchSize,
        roi: shapely.Polygon | None = None,
        **options: Any,
    ) -> None:
        """Create the sampler over sufficiently enlarged boxes.

        Args:
            kind: class of the sampler.
            dataset: scenes.
            size: side or (height, width) of a patch, pixels.
            roi: region to sample from, in the dataset's CRS.
            **options: further arguments of the sampler, such as ``stride`` or ``length``.

        Raises:
            DataError: if nothing is in the region, or the size is below one pixel.
        """
        index = dataset.index if roi is None else dataset.index.clip(roi)
        if index.empty:
            raise DataError(
                f"expected scenes in the region {getattr(roi, 'bounds', None)}, found none; give "
                "it in the dataset's CRS"
            )
        self._boxes = index.geometry.bounds.to_numpy()
        self._times = index.index
        self._least = (LEAST_PX * dataset.res[0], LEAST_PX * dataset.res[1])
        # only newer samplers such as RandomPatchSampler declare how they choose
        turned = getattr(kind, "strategy", None) == "random"
        extent, grown = _extent(dataset, size, turned=turned), index.copy()
        grown.geometry = [_grown(g.bounds, extent, centred=turned) for g in index.geometry]
        with _no_advice():
            self.sampler = kind(_Indexed(grown, dataset.res), size=size, **options)

    def __iter__(self) -> Iterator[Query]:
        """The sampler's queries that overlap a scene."""
        with _no_advice():
            queries = list(self.sampler)
        return (cast(Query, query) for query in queries if self._touches(query))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _touches(self, query: Query) -> bool:
        boxes = self._boxes
        if len(query) == 3:
            # only the scene the query was made for: a neighbour has its own patch there
            starts, stops = self._times.left, self._times.right
            meant = np.asarray((starts == query[2].start) & (stops == query[2].stop))
            boxes = boxes[meant] if meant.any() else boxes
        left, bottom, right, top = boxes.T
        across = np.minimum(right, query[0].stop) - np.maximum(left, query[0].start)
        along = np.minimum(top, query[1].stop) - np.maximum(bottom, query[1].start)
        return bool(((across > self._least[0]) & (along > self._least[1])).any())


def _extent(dataset: GeoDataset, size: PatchSize, *, turned: bool) -> tuple[float, float]:
    """(height, width) a box needs to hold a patch, in units of the CRS."""
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise DataError(f"expected a patch size of at least one pixel, found {size}")
    high, wide = height * dataset.res[1], width * dataset.res[0]
    if not turned:
        return high, wide
    # the sampler keeps half a diagonal from every edge; a pixel must remain to sample from
    side = math.hypot(high, wide) + max(dataset.res)
    return side, side


def _grown(bounds: Sequence[float], extent: tuple[float, float], *, centred: bool) -> Any:
    """A box of at least this extent: enlarged evenly, or with a fixed upper left corner."""
    left, bottom, right, top = bounds
    more_x, more_y = extent[1] - (right - left), extent[0] - (top - bottom)
    # slightly more, because the sampler subtracts it again and drops boxes made too small by
    # rounding
    hair = 1e-9 * max(1.0, *map(abs, bounds))
    more_x, more_y = (more + hair if more > -hair else 0.0 for more in (more_x, more_y))
    share = 0.5 if centred else 1.0
    return shapely.box(
        left - (1 - share) * more_x,
        bottom - share * more_y,
        right + share * more_x,
        top + (1 - share) * more_y,
    )


class InOrder(Sequence[dict[str, Any]]):
    """Samples of a dataset in a given order, by number."""

    def __init__(self, dataset: Any, items: Sequence[Any]) -> None:
        """Name the dataset, and its indices or queries."""
        self.dataset = dataset
        self.items = items

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        """Read one sample."""
        return self.dataset[self.items[index]]


def grid_queries(
    dataset: GeoDataset,
    size: PatchSize,
    stride: PatchSize | None = None,
    *,
    roi: shapely.Polygon | None = None,
) -> list[Query]:
    """Queries of the patches that cover every scene, as ``GridGeoSampler`` orders them.

    Patches at the upper and right edges extend beyond the scene, where they are padded and ignored:
    with the default stride, the patch size, every pixel counts exactly once.
    """
    return list(Guarded(GridGeoSampler, dataset, size=size, roi=roi, stride=stride))


def random_queries(
    dataset: GeoDataset,
    size: PatchSize,
    length: int | None = None,
    *,
    seed: Sequence[int],
    roi: shapely.Polygon | None = None,
) -> list[Query]:
    """Queries of random patches, the same for the same seed.

    ``RandomGeoSampler`` of 0.8 draws the scene from torch's global state even if it is given a
    generator; here that state is set temporarily and restored.

    Args:
        dataset: scenes; large ones are sampled more often.
        size: side or (height, width) of a patch, pixels.
        length: number of patches; by default enough to cover the scenes once.
        seed: numbers such as (seed, epoch).
        roi: region to sample from, in the dataset's CRS.
    """
    length = length or _patches_to_cover(dataset, _extent(dataset, size, turned=False), roi)
    state = int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0] >> 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(state)
        return list(Guarded(RandomGeoSampler, dataset, size=size, roi=roi, length=length))


def _patches_to_cover(
    dataset: GeoDataset, extent: tuple[float, float], roi: shapely.Polygon | None
) -> int:
    index = dataset.index if roi is None else dataset.index.clip(roi)
    left, bottom, right, top = index.geometry.bounds.to_numpy().T
    # tolerate a thousandth of a patch as rounding
    rows = np.ceil((top - bottom) / extent[0] - 1e-3)
    cols = np.ceil((right - left) / extent[1] - 1e-3)
    return int((np.maximum(rows, 1) * np.maximum(cols, 1)).sum())
