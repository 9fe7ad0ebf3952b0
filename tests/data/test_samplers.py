"""Guards around TorchGeo's samplers: every scene is reached, every pixel is covered."""

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchgeo.datasets import GeoDataset
from torchgeo.samplers import GridGeoSampler, RandomGeoSampler

from rscd.base.errors import DataError
from rscd.data.samplers import Guarded, grid_queries, random_queries


class Scenes(GeoDataset):
    """An index without files; undated scenes told apart by nanoseconds, as in ScenePairs."""

    def __init__(self, boxes: list[Any], res: float, crs: str = "EPSG:32633") -> None:
        self._res = (res, res)
        times = [
            pd.Interval(pd.Timestamp.min + pd.Timedelta(i, "ns"), pd.Timestamp.max, closed="both")
            for i in range(len(boxes))
        ]
        self.index = geopandas.GeoDataFrame(
            index=pd.IntervalIndex(times, closed="both", name="datetime"),
            geometry=[shapely.box(*box) for box in boxes],
            crs=crs,
        )

    def __getitem__(self, query: Any) -> dict[str, Any]:
        raise AssertionError("samplers read no patch")


class RandomPatchSampler:
    """What TorchGeo 0.10 does: centres at half a patch's diagonal from every edge."""

    strategy: ClassVar[str] = "random"

    def __init__(self, dataset: GeoDataset, *, size: int, length: int = 10) -> None:
        self.side, self.length = size * dataset.res[0], length
        geometry = dataset.index.geometry.union_all()
        distance = math.sqrt(2) * self.side / 2
        self.series = geopandas.GeoSeries([shapely.buffer(geometry, -distance)])

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        points = self.series.sample_points(size=self.length, rng=np.random.default_rng(0))
        half = self.side / 2
        for point in points.explode():
            yield (
                slice(point.x - half, point.x + half),
                slice(point.y - half, point.y + half),
            )


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=3),
    res=st.sampled_from([1.0, 0.3, 10.0, 0.07, 1 / 3]),
    size=st.integers(8, 64),
    stride=st.integers(8, 64),
)
def test_a_guarded_grid_covers_every_pixel_of_every_scene(
    shapes: list[tuple[int, int]], res: float, size: int, stride: int
) -> None:
    stride = min(stride, size)
    boxes = []
    left = 399_999.9
    for height, width in shapes:  # side by side: patches reach into the neighbour
        boxes.append((left, 5e6, left + width * res, 5e6 + height * res))
        left += width * res
    dataset = Scenes(boxes, res)
    seen = [np.zeros(shape, int) for shape in shapes]
    queries = list(Guarded(GridGeoSampler, dataset, size=size, stride=stride))
    for x, y, t in queries:
        number = (t.start.as_unit("ns").value) - pd.Timestamp.min.as_unit("ns").value
        box, shape = boxes[number], shapes[number]
        col, row = round((x.start - box[0]) / res), round((box[3] - y.stop) / res)
        assert round((x.stop - x.start) / res) == size
        part = seen[number][max(row, 0) : max(row + size, 0), max(col, 0) : col + size]
        assert part.size > 0  # no patch without a pixel
        part += 1
        assert row < shape[0]
    for counts in seen:
        assert counts.min() >= 1
        if stride == size:
            assert counts.max() == 1
    assert len(Guarded(GridGeoSampler, dataset, size=size, stride=stride)) == len(queries)


@pytest.mark.filterwarnings("ignore:Use torchgeo.samplers:DeprecationWarning")  # 0.10
@pytest.mark.parametrize("kind", [GridGeoSampler, RandomGeoSampler])
def test_the_bare_samplers_skip_what_the_guard_reaches(kind: Any) -> None:
    dataset = Scenes([(0, 0, 50, 70)], 1.0)
    assert list(kind(dataset, 64)) == []
    assert len(list(Guarded(kind, dataset, size=64))) >= 2
    assert len(grid_queries(dataset, 64)) == len(random_queries(dataset, 64, seed=(0,))) == 2


def test_patches_start_at_the_first_pixel_of_a_small_scene() -> None:
    dataset = Scenes([(1000, 2000, 1050, 2070)], 1.0)
    for kind in (GridGeoSampler, RandomGeoSampler):
        x, y, _ = next(iter(Guarded(kind, dataset, size=100)))
        assert (x.start, y.stop) == pytest.approx((1000, 2070))


def test_the_random_sampler_of_torchgeo_0_10_reaches_small_scenes() -> None:
    bare = RandomPatchSampler(Scenes([(0, 0, 50, 70)], 1.0), size=64)
    assert bare.series.is_empty.all()
    queries = list(Guarded(RandomPatchSampler, Scenes([(0, 0, 50, 70)], 1.0), size=64))
    assert len(queries) == 10
    for x, y in queries:
        assert abs((x.start + x.stop) / 2 - 25) < 2
        assert abs((y.start + y.stop) / 2 - 35) < 2


def test_random_patches_follow_the_seed_and_leave_torch_alone() -> None:
    dataset = Scenes([(0, 0, 500, 500), (900, 0, 1400, 800)], 1.0)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = random_queries(dataset, 64, 20, seed=(3, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert random_queries(dataset, 64, 20, seed=(3, 1)) == first
    assert random_queries(dataset, 64, 20, seed=(3, 2)) != first
    assert {x.start >= 900 for x, *_ in first} == {True, False}


def test_a_region_limits_the_patches() -> None:
    dataset = Scenes([(0, 0, 500, 500), (900, 0, 1400, 800)], 1.0)
    roi = shapely.box(950, 100, 980, 130)
    (query,) = grid_queries(dataset, 64, roi=roi)
    assert (query[0].start, query[1].stop) == pytest.approx((950, 130))
    for x, y, _ in random_queries(dataset, 16, 30, seed=(0,), roi=roi):
        assert x.start >= 950
        assert y.stop <= 130.001


@pytest.mark.parametrize("size", [1, (1, 8), (8, 1)])
def test_a_patch_may_be_a_pixel_wide(size: int | tuple[int, int]) -> None:
    boxes = [(0, 0, 8, 8)]
    queries = [
        (x, y) for x, y, _ in Guarded(GridGeoSampler, Scenes(boxes, 1.0), size=size, stride=size)
    ]
    height, width = (size, size) if isinstance(size, int) else size
    assert len(queries) == 64 // (height * width)


def test_mistakes_are_named() -> None:
    dataset = Scenes([(0, 0, 500, 500)], 1.0)
    with pytest.raises(DataError, match="at least one pixel, found 0"):
        grid_queries(dataset, 0)
    with pytest.raises(DataError, match="in the region"):
        grid_queries(dataset, 8, roi=shapely.box(700, 700, 800, 800))
