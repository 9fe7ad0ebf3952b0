"""The tiled engine: results do not depend on how a scene is cut, nor on who computes the tiles."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from rscd.base.errors import ModelError, SceneError
from rscd.export.vector import change_polygons
from rscd.geo.changemap import ChangeMap
from rscd.geo.grid import compose
from rscd.geo.scene import ScenePair
from rscd.geo.source import close_handles
from rscd.geo.tiles import Box, plan_tiles
from rscd.inference.detectors.registry import DETECTORS
from rscd.inference.journal import open_journal
from rscd.inference.kinds import FULL, Standing
from rscd.inference.predictor import Tiling
from rscd.inference.tiled import (
    bounded_map,
    fit_model,
    predict_scene,
    run_block,
    scene_blocks,
    thread_mapper,
)

UTM = Affine(10, 0, 500_000, 0, -10, 5_000_000)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_handles()


@dataclass(frozen=True)
class BoxMean:
    """A local operator: mean absolute difference over a square of side 2 r + 1."""

    radius: int
    multiple: int = 1
    threshold: float = 0.25

    @property
    def tiling(self) -> Tiling:
        return Tiling(halo=self.radius, multiple=self.multiple)

    def __call__(self, image: NDArray[Any], valid: NDArray[Any]) -> NDArray[Any]:
        assert image.dtype == np.float32
        assert image.shape[3] % self.multiple == image.shape[4] % self.multiple == 0
        difference = np.abs(image[:, 1] - image[:, 0]).mean(axis=1, dtype=np.float64) / 255
        return self.mean(difference).astype(np.float32)

    def mean(self, difference: NDArray[Any]) -> NDArray[Any]:
        side = 2 * self.radius + 1
        return uniform_filter(difference, (0, side, side)[-difference.ndim :], mode="constant")


def town(shape: tuple[int, int], seed: int = 0, bands: int = 3) -> Iterator[Any]:
    """Smooth fields, and blocks that are brighter at t2: holes, diagonal touches, thin lines."""
    rng = np.random.default_rng(seed)
    height, width = shape
    fields = uniform_filter(rng.random((bands, height, width)) * 255, (0, 9, 9)) * 3 % 200
    t1 = fields + rng.normal(0, 4, fields.shape)
    t2 = 0.9 * fields + 12 + rng.normal(0, 4, fields.shape)
    for _ in range(6):
        row, col = rng.integers(0, height), rng.integers(0, width)
        h, w = rng.integers(1, 40, 2)
        t2[:, row : row + h, col : col + w] += 90 * rng.random((bands, 1, 1))
        t2[:, row + h : row + 2 * h, col + w : col + 2 * w] += 90  # touches at a corner
        t2[:, row + h // 3 : row + h // 2, col + w // 3 : col + w // 2] = 20  # a hole
    return (np.clip(date, 1, 255).astype(np.uint8) for date in (t1, t2))


def open_town(
    folder: Path,
    write_tif: Callable[..., Path],
    shape: tuple[int, int],
    *,
    seed: int = 0,
    warped: bool = False,
    holes: bool = True,
) -> ScenePair:
    t1, t2 = town(shape, seed)
    if holes:
        t1[:, : shape[0] // 6, : shape[1] // 5] = 0
    shift = compose(UTM, Affine.translation(0.4, -0.3)) if warped else UTM
    return ScenePair.open(
        write_tif(folder / "t1.tif", t1, nodata=0),
        write_tif(folder / "t2.tif", t2, nodata=0, transform=shift),
    )


def detect(
    pair: ScenePair,
    model: Any,
    folder: Path,
    *,
    tile_size: int,
    batch_size: int = 1,
    workers: int = 0,
    mapper: Callable[..., Any] = map,
) -> tuple[NDArray[Any], NDArray[Any], tuple[int, int], geopandas.GeoDataFrame]:
    """Probabilities and mask of the whole scene, and polygons, as the engine makes them."""
    folder.mkdir(exist_ok=True)

    def run(
        mapper: Callable[..., Any],
    ) -> tuple[NDArray[Any], NDArray[Any], tuple[int, int], geopandas.GeoDataFrame]:
        predictor = fit_model(pair, model, mapper) if hasattr(model, "fit") else model
        with open_journal(folder / "work", {}) as journal:
            change_map = ChangeMap(journal.folder, pair.grid, predictor.threshold, {})
            predict_scene(
                pair,
                predictor,
                change_map,
                journal,
                tile_size=tile_size,
                batch_size=batch_size,
                mapper=mapper,
            )
            counts = change_map.threshold_mask()
            polygons = change_polygons(change_map.mask.path, change_map.prob.path, pair.ground)
            whole = Box(0, 0, *pair.shape_hw)
            arrays = change_map.prob.read(whole), change_map.mask.read(whole)
            journal.remove()
        return *arrays, counts, polygons

    if not workers:
        return run(mapper)
    with thread_mapper(workers) as threads:
        return run(threads)


def assert_same(
    one: tuple[NDArray[Any], NDArray[Any], tuple[int, int], geopandas.GeoDataFrame],
    other: tuple[NDArray[Any], NDArray[Any], tuple[int, int], geopandas.GeoDataFrame],
) -> None:
    prob, mask, counts, polygons = one
    np.testing.assert_array_equal(prob.view(np.uint32), other[0].view(np.uint32))
    np.testing.assert_array_equal(mask, other[1])
    assert counts == other[2]
    assert polygons.equals(other[3])


@pytest.mark.parametrize("warped", [False, True])
@pytest.mark.parametrize("name", DETECTORS)
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_detectors_give_the_same_bits_for_any_tiling(
    tmp_path_factory: pytest.TempPathFactory,
    write_tif: Callable[..., Path],
    name: str,
    warped: bool,
    data: st.DataObject,
) -> None:
    shape = data.draw(st.tuples(st.integers(8, 200), st.integers(8, 300)))
    tile_size = data.draw(st.integers(16, 320))
    batch_size, workers = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 3))
    folder = tmp_path_factory.mktemp("town")
    pair = open_town(folder, write_tif, shape, seed=sum(shape), warped=warped)
    try:
        whole = detect(pair, DETECTORS[name](), folder / "whole", tile_size=4096)
        cut = detect(
            pair,
            DETECTORS[name](),
            folder / "cut",
            tile_size=tile_size,
            batch_size=batch_size,
            workers=workers,
        )
    finally:
        close_handles()
    assert_same(whole, cut)
    prob, mask, *_ = whole
    np.testing.assert_array_equal(np.isnan(prob), mask == 255)
    assert ((prob >= 0) & (prob <= 1))[mask != 255].all()


@pytest.mark.parametrize("name", DETECTORS)
def test_statistics_gathered_over_several_blocks_do_not_depend_on_workers(
    tmp_path: Path, write_tif: Callable[..., Path], name: str
) -> None:
    pair = open_town(tmp_path, write_tif, (100, 1040))
    whole = detect(pair, DETECTORS[name](), tmp_path / "whole", tile_size=2048)
    cut = detect(pair, DETECTORS[name](), tmp_path / "cut", tile_size=90, batch_size=7, workers=3)
    assert_same(whole, cut)
    assert whole[2][0] > 0


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (3, 5)])
def test_tiny_scenes_work_or_say_why(
    tmp_path: Path, write_tif: Callable[..., Path], name: str, shape: tuple[int, int]
) -> None:
    pair = open_town(tmp_path, write_tif, shape, holes=False)
    outcomes: list[str | bytes] = []
    for tile_size in (1, 64):
        try:
            found = detect(pair, DETECTORS[name](), tmp_path / f"{tile_size}", tile_size=tile_size)
        except SceneError as error:
            outcomes.append(str(error))
        else:
            assert found[0].shape == shape
            outcomes.append(found[0].tobytes())
    assert outcomes[0] == outcomes[1]


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.integers(1, 100),
    st.integers(0, 8),
    st.sampled_from([1, 4, 16]),
    st.integers(1, 4),
)
def test_a_local_operator_equals_itself_on_the_whole_scene(
    tmp_path_factory: pytest.TempPathFactory,
    write_tif: Callable[..., Path],
    shape: tuple[int, int],
    tile_size: int,
    radius: int,
    multiple: int,
    batch_size: int,
) -> None:
    folder = tmp_path_factory.mktemp("local")
    pair = open_town(folder, write_tif, shape)
    predictor = BoxMean(radius, multiple)
    image, valid = pair.read(Box(-radius, -radius, shape[0] + 2 * radius, shape[1] + 2 * radius))
    difference = np.abs(image[1] - image[0]).mean(axis=0, dtype=np.float64) / 255
    inner = tuple(slice(radius, radius + n) for n in shape)
    expected = np.where(valid[inner], predictor.mean(difference)[inner], np.nan)
    prob = detect(pair, predictor, folder / "work", tile_size=tile_size, batch_size=batch_size)[0]
    close_handles()
    np.testing.assert_allclose(prob, expected, atol=1e-6, equal_nan=True)


def test_a_halo_that_is_too_small_would_show() -> None:
    """The oracle above has teeth: a halo of nothing gives other numbers at tile edges."""
    difference = np.random.default_rng(0).random((40, 40))
    whole = BoxMean(3).mean(difference)
    parts = np.hstack([BoxMean(3).mean(half) for half in np.hsplit(difference, 2)])
    assert np.abs(whole - parts)[:, 17:23].max() > 1e-3


@dataclass(frozen=True)
class Brightness(BoxMean):
    """Where a date is bright, a building stands; notes how often it is asked."""

    calls: tuple[list[bool], ...] = ()
    """Lists to which each call appends whether buildings were asked for."""

    finds_buildings = True

    def __call__(self, image: NDArray[Any], valid: NDArray[Any]) -> NDArray[Any]:
        for call in self.calls:
            call.append(False)
        return super().__call__(image, valid)

    def with_buildings(
        self, image: NDArray[Any], valid: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        for call in self.calls:
            call.append(True)
        bright = image.mean(axis=2, dtype=np.float64) / 255
        means = np.stack([self.mean(bright[:, date]) for date in (0, 1)], axis=1)
        return super().__call__(image, valid), means.astype(np.float32)


def filled(
    pair: ScenePair,
    predictor: Brightness,
    folder: Path,
    *,
    standing: bool = True,
    mapper: Callable[..., Any] = map,
    progress: Callable[..., Any] = lambda *_: None,
    **how: Any,
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Probabilities and (2,H,W) stored buildings of a scene; its folder stays."""
    with open_journal(folder, {}) as journal:
        change_map = ChangeMap(journal.folder, pair.grid, 0.5, {})
        beside = Standing.beside(change_map, 0.3) if standing else None
        predict_scene(
            pair, predictor, change_map, journal, standing=beside, mapper=mapper,
            progress=progress, **{"tile_size": 4096} | how,
        )  # fmt: skip
        whole = Box(0, 0, *pair.shape_hw)
        return change_map.prob.read(whole), None if beside is None else beside.read(whole)


def assert_same_bits(one: NDArray[Any], other: NDArray[Any]) -> None:
    np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))


class TestBuildings:
    @settings(max_examples=12, deadline=None)
    @given(
        st.tuples(st.integers(1, 90), st.integers(1, 90)),
        st.integers(1, 100),
        st.integers(0, 8),
        st.sampled_from([1, 4, 16]),
        st.integers(1, 4),
        st.integers(0, 2),
    )
    def test_they_are_those_of_the_whole_scene_and_change_is_as_without(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        write_tif: Callable[..., Path],
        shape: tuple[int, int],
        tile_size: int,
        radius: int,
        multiple: int,
        batch_size: int,
        workers: int,
    ) -> None:
        folder = tmp_path_factory.mktemp("houses")
        pair = open_town(folder, write_tif, shape)
        model = Brightness(radius, multiple)
        how: dict[str, Any] = {"tile_size": tile_size, "batch_size": batch_size}
        with thread_mapper(workers) if workers else nullcontext(map) as mapper:
            prob, found = filled(pair, model, folder / "with", mapper=mapper, **how)
            alone, nothing = filled(pair, model, folder / "without", standing=False, **how)
        assert_same_bits(prob, alone)
        assert nothing is None
        assert not (folder / "without" / "buildings_t1.img").exists()
        box = Box(-radius, -radius, shape[0] + 2 * radius, shape[1] + 2 * radius)
        image, valid = pair.read(box)
        close_handles()
        inner = tuple(slice(radius, radius + n) for n in shape)
        expected = Brightness(radius).with_buildings(image[None], valid[None])[1][0][:, *inner]
        expected[:, ~valid[inner]] = 0
        assert found is not None
        np.testing.assert_allclose(found / FULL, expected, atol=0.5 / FULL + 1e-6)

    def test_nothing_is_kept_outside_an_area_of_interest(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        whole = open_town(tmp_path, write_tif, (90, 120))
        corners = [UTM @ corner for corner in ((30, 20), (110, 40), (50, 85))]
        part = whole.crop(shapely.Polygon(corners), mask=True)
        how: dict[str, Any] = {"tile_size": 32, "batch_size": 2}
        _, everywhere = filled(whole, Brightness(2), tmp_path / "whole", **how)
        prob, found = filled(part, Brightness(2), tmp_path / "part", **how)
        window = part.window
        inside = part.inside(Box(0, 0, *part.shape_hw)) & ~np.isnan(prob)
        assert 0.2 < inside.mean() < 0.8
        assert everywhere is not None
        np.testing.assert_array_equal(found, np.where(inside, everywhere[:, *window.slices], 0))

    def test_they_are_not_looked_for_where_nobody_asks(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        calls: list[Any] = []
        pair = open_town(tmp_path, write_tif, (40, 60))
        filled(pair, Brightness(0, calls=(calls,)), tmp_path / "a", standing=False, tile_size=20)
        assert calls == [False] * 6
        filled(pair, Brightness(0, calls=(calls,)), tmp_path / "b", tile_size=20)
        assert calls[6:] == [True] * 6

    @pytest.mark.parametrize("inside", [True, False])
    def test_what_is_no_number_is_refused_where_there_is_data(
        self, tmp_path: Path, write_tif: Callable[..., Path], inside: bool
    ) -> None:
        pair = open_town(tmp_path, write_tif, (60, 60))

        class Broken(Brightness):
            def with_buildings(
                self, image: NDArray[Any], valid: NDArray[Any]
            ) -> tuple[NDArray[Any], NDArray[Any]]:
                prob, found = super().with_buildings(image, valid)
                found[:, 1][valid if inside else ~valid] = np.nan
                return prob, found

        if inside:
            with pytest.raises(ModelError, match="expected numbers from the model's buildings"):
                filled(pair, Broken(0), tmp_path / "work")
        else:
            _, found = filled(pair, Broken(0), tmp_path / "work")
            assert found is not None
            assert (found[:, :10, :12] == 0).all()

    def test_a_tile_is_done_when_its_buildings_are_intact_too(
        self, tmp_path: Path, write_tif: Callable[..., Path]
    ) -> None:
        pair = open_town(tmp_path, write_tif, (60, 100), holes=False)
        expected = filled(pair, Brightness(1), tmp_path / "through", tile_size=20)
        calls: list[bool] = []
        work = tmp_path / "work"
        model = Brightness(1, calls=(calls,))

        def stop(stage: str, done: int, total: int) -> None:
            if done == 7:
                raise KeyboardInterrupt

        def resumed(**how: Any) -> int:
            calls.clear()
            found = filled(pair, model, work, tile_size=20, **how)
            assert_same_bits(found[0], expected[0])
            if found[1] is not None:
                assert expected[1] is not None
                assert_same_bits(found[1], expected[1])
            return len(calls)

        with pytest.raises(KeyboardInterrupt):
            filled(pair, model, work, tile_size=20, progress=stop)
        for date in ("t1", "t2"):  # one pixel of the first tile, and of the second
            with (work / f"buildings_{date}.img").open("r+b") as file:
                file.seek(100 * 3 + (5 if date == "t1" else 25))
                value = file.read(1)
                file.seek(-1, 1)
                file.write(bytes([value[0] ^ 1]))
        assert resumed() == 15 - 7 + 2
        assert resumed() == 0
        (work / "buildings_t2.img").unlink()
        assert resumed() == 15
        # journals with and without buildings are never taken for each other
        assert resumed(standing=False) == 15
        assert resumed() == 15
        assert resumed() == 0


@pytest.mark.slow
def test_processes_give_what_threads_give(tmp_path: Path, write_tif: Callable[..., Path]) -> None:
    pair = open_town(tmp_path, write_tif, (90, 120), warped=True)
    predictor = fit_model(pair, DETECTORS["irmad"]())
    tiles = plan_tiles(pair.shape_hw, 40)
    jobs = [tiles[i : i + 2] for i in range(0, len(tiles), 2)]
    work = partial(run_block, pair, predictor)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        remote = list(bounded_map(pool, 3, work, jobs))
    for here, there in zip(map(work, jobs), remote, strict=True):
        for near, far in zip(here, there, strict=True):
            assert near.tile == far.tile
            np.testing.assert_array_equal(near.prob, far.prob)


def test_tiles_without_data_never_reach_the_model(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    t1, t2 = town((40, 80))
    t1[:, :, 40:] = 0
    pair = ScenePair.open(
        write_tif(tmp_path / "t1.tif", t1, nodata=0), write_tif(tmp_path / "t2.tif", t2, nodata=0)
    )
    seen = []

    class Spy(BoxMean):
        def __call__(self, image: NDArray[Any], valid: NDArray[Any]) -> NDArray[Any]:
            seen.append(image.shape)
            assert valid.any()
            assert (image.transpose(1, 2, 0, 3, 4)[:, :, ~valid] == 0).all()
            return super().__call__(image, valid)

    prob, mask, counts, _ = detect(pair, Spy(0), tmp_path / "work", tile_size=40)
    assert len(seen) == 1
    assert np.isnan(prob[:, 40:]).all()
    assert (mask[:, 40:] == 255).all()
    assert counts[1] == 40 * 40


def test_blocks_for_statistics_are_a_fixed_lattice(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    pair = open_town(tmp_path, write_tif, (520, 1030))
    blocks = list(scene_blocks(pair, 3))
    assert [block.index for block in blocks] == list(range(6))
    assert [block.valid.shape for block in blocks[:3]] == [(518, 518), (518, 518), (518, 12)]
    with thread_mapper(3) as threads:
        for one, other in zip(blocks, scene_blocks(pair, 3, threads), strict=True):
            np.testing.assert_array_equal(one.image, other.image)
            np.testing.assert_array_equal(one.valid, other.valid)
    corner = blocks[0]
    assert not corner.valid[:3].any()
    np.testing.assert_array_equal(corner.image[:, :, 2, 3:], corner.image[:, :, 4, 3:])


def test_progress_counts_up_to_all_tiles(tmp_path: Path, write_tif: Callable[..., Path]) -> None:
    pair = open_town(tmp_path, write_tif, (50, 70))
    told = []
    with open_journal(tmp_path / "work", {}) as journal:
        change_map = ChangeMap(journal.folder, pair.grid, 0.5, {})
        predict_scene(
            pair,
            BoxMean(0),
            change_map,
            journal,
            tile_size=20,
            batch_size=2,
            progress=lambda *news: told.append(news),
        )
    assert told[0] == ("change", 0, 12)
    assert told[-1] == ("change", 12, 12)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


class TestBoundedMap:
    @pytest.mark.parametrize("in_flight", [1, 2, 5])
    def test_results_come_in_order(self, in_flight: int) -> None:
        with ThreadPoolExecutor(3) as pool:
            assert list(bounded_map(pool, in_flight, lambda n: n * n, range(50))) == [
                n * n for n in range(50)
            ]
            assert list(bounded_map(pool, in_flight, abs, [])) == []

    @settings(max_examples=30, deadline=None)
    @given(st.integers(1, 6), st.integers(0, 30))
    def test_jobs_are_taken_only_as_results_are_taken(self, in_flight: int, n_jobs: int) -> None:
        taken = 0

        def jobs() -> Iterator[int]:
            nonlocal taken
            for job in range(n_jobs):
                taken += 1
                yield job

        class Pool(Executor):
            def submit(self, function: Callable[..., Any], /, *jobs: Any, **_: Any) -> Future[Any]:
                future: Future[Any] = Future()
                future.set_result(function(*jobs))
                return future

        for count, _ in enumerate(bounded_map(Pool(), in_flight, abs, jobs()), 1):
            # those taken, those in flight, and the one that waits for a place
            assert taken - count <= in_flight
        assert taken == n_jobs

    def test_an_exception_reaches_the_caller_and_cancels_what_waits(self) -> None:
        gate, started = threading.Event(), []

        def work(n: int) -> int:
            started.append(n)
            if n == 1:
                raise ZeroDivisionError
            if n > 1:
                gate.wait(5)
            return n

        with ThreadPoolExecutor(1) as pool:
            results = bounded_map(pool, 4, work, range(100))
            assert next(results) == 0
            with pytest.raises(ZeroDivisionError):
                next(results)
            gate.set()
        assert max(started) <= 5

    def test_an_exception_among_the_jobs_reaches_the_caller(self) -> None:
        def jobs() -> Iterator[int]:
            yield 1
            raise KeyError("no more")

        with ThreadPoolExecutor(1) as pool, pytest.raises(KeyError):
            list(bounded_map(pool, 3, abs, jobs()))
