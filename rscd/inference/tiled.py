"""The tiled engine: from a scene pair and a model to a probability raster.

Tiles are trimmed, not blended: every pixel belongs to one tile, so the result does not depend on
tile size, batch size, workers or order. There is one writer; memory holds only pending tiles.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar
from zlib import crc32

import numpy as np

from rscd.base.types import FloatArray, Progress, ShapeHW, silent
from rscd.geo.changemap import ChangeMap, check_numbers
from rscd.geo.scene import ScenePair
from rscd.geo.tiles import Box, Tile, batches, plan_tiles, round_up
from rscd.inference.journal import Journal
from rscd.inference.predictor import Block, Model, Predictor, Tiling

BLOCK_SIZE = 512
"""Side of the blocks over which global statistics are gathered; fixed, see `Block`."""

SEAM_PX = 16
SEAM_SAMPLES = 4

T = TypeVar("T")
R = TypeVar("R")


class Mapper(Protocol):
    """Any lazy ``map``: the builtin, a bounded pool of threads or processes, or a cluster."""

    def __call__(self, function: Callable[[T], R], jobs: Iterable[T], /) -> Iterator[R]:
        """Yield ``function(job)`` for each job, in order."""


def bounded_map(
    pool: Executor,
    in_flight: int | Callable[[], int],
    function: Callable[[T], R],
    jobs: Iterable[T],
) -> Iterator[R]:
    """Like ``pool.map``, but at most `in_flight` jobs are pending: more as results are consumed.

    `Executor.map` submits everything at once, so that results pile up if the writer is slower. If
    the pool may grow, `in_flight` is asked anew for each job.
    """
    limit = in_flight if callable(in_flight) else lambda: in_flight
    pending: deque[Future[R]] = deque()
    try:
        for job in jobs:
            while len(pending) >= limit():
                yield pending.popleft().result()
            pending.append(pool.submit(function, job))
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


@contextmanager
def thread_mapper(workers: int) -> Iterator[Mapper]:
    """A mapper over threads, in which reading, computing and writing overlap."""
    with ThreadPoolExecutor(workers, thread_name_prefix="rscd") as pool:
        yield partial(bounded_map, pool, workers + 1)


def scene_blocks(pair: ScenePair, halo: int, mapper: Mapper = map) -> Iterator[Block]:
    """The whole scene as fixed blocks for `Model.fit`, whatever part of it is requested."""
    scene = pair.whole
    tiles = plan_tiles(scene.shape_hw, BLOCK_SIZE, halo)
    yield from mapper(partial(_read_block, scene, halo), tiles)


def _read_block(pair: ScenePair, halo: int, tile: Tile) -> Block:
    image, valid = pair.context(tile.read)
    return Block(tile.index, image, valid, halo)


def scene_tiles(pair: ScenePair, tile_size: int, tiling: Tiling) -> list[Tile]:
    """The tiles of a model for the requested part of a scene, in pixels of ``pair.grid``.

    They are on the lattice of the whole scene, so that a part gives the same result as the whole.
    """
    window = pair.window
    tiles = model_tiles(pair.whole.shape_hw, tile_size, tiling, window)
    return [tile.moved(-window.row, -window.col) for tile in tiles]


def model_tiles(
    shape_hw: ShapeHW, tile_size: int, tiling: Tiling, window: Box | None = None
) -> list[Tile]:
    """The tiles of a model for a whole image or a window in it; see `plan_tiles`."""
    alone = tile_size >= max(shape_hw) and tiling.in_one_pass(shape_hw)
    halo = 0 if alone else tiling.halo
    return plan_tiles(shape_hw, tile_size, halo, tiling.multiple, window, trim=tiling.exact)


def run_block(
    pair: ScenePair, predictor: Predictor, tiles: list[Tile]
) -> list[tuple[Tile, FloatArray]]:
    """Read, predict and trim one batch of tiles of equal size.

    A top-level function with picklable arguments, so that it can run in a thread, a process or on a
    cluster.

    The model sees everything around a tile; only the result is restricted to the area of interest.

    Returns:
        Each tile with its (h,w) float32 probabilities, NaN where either date has no data or outside
        the requested part.

    Raises:
        ModelError: if the prediction is not finite where both dates have data.
    """
    wanted = [pair.inside(tile.write) for tile in tiles]
    results = [(tile, np.full(tile.write.shape_hw, np.nan, np.float32)) for tile in tiles]
    if not any(area.any() for area in wanted):
        return results
    pieces = [pair.context(tile.read) for tile in tiles]
    image = np.stack([image for image, _ in pieces])
    valid = np.stack([valid for _, valid in pieces])
    del pieces
    wanted = [
        area & usable[tile.inner] for tile, area, usable in zip(tiles, wanted, valid, strict=True)
    ]
    if any(area.any() for area in wanted):
        prob = predictor(image, valid)
        for (tile, found), area, tile_prob in zip(results, wanted, prob, strict=True):
            inner = tile_prob[tile.inner]
            check_numbers(inner, area, getattr(predictor, "name", "the model"))
            found[area] = inner[area]
    return results


def fit_model(
    pair: ScenePair, model: Model, mapper: Mapper = map, progress: Progress = silent
) -> Predictor:
    """Let the model make its pass over the scene for global statistics, if it needs one.

    Statistics are those of the whole scene even if only a part is requested: an area of interest
    defines what to write, not what is normal.
    """
    height, width = pair.whole.shape_hw
    total = -(-height // BLOCK_SIZE) * -(-width // BLOCK_SIZE)

    def counted() -> Iterator[Block]:
        for block in scene_blocks(pair, model.tiling.halo, mapper):
            yield block
            progress("statistics", block.index + 1, total)

    return model.fit(Passes(counted), height * width)


def needs_statistics(model: Model) -> bool:
    """Whether a model makes a pass over the whole scene before it predicts; nothing is read."""

    def asked() -> Iterator[Block]:
        raise _AskedForBlocksError

    try:
        model.fit(Passes(asked), 1)
    except _AskedForBlocksError:
        return True
    return False


class _AskedForBlocksError(Exception):
    """A model began its pass."""


@dataclass(frozen=True)
class Passes:
    """The blocks of a scene: each iteration is another pass over it."""

    start: Callable[[], Iterator[Block]]

    def __iter__(self) -> Iterator[Block]:
        """Start a pass."""
        return self.start()


def predict_scene(
    pair: ScenePair,
    predictor: Predictor,
    change_map: ChangeMap,
    journal: Journal,
    *,
    tile_size: int,
    batch_size: int = 1,
    mapper: Mapper = map,
    progress: Progress = silent,
) -> None:
    """Fill the probability raster of `change_map`, tile by tile.

    Tiles that are in the journal and intact on disk are not computed again. Only this process
    writes.

    Args:
        pair: the two dates on one grid.
        predictor: a fitted model.
        change_map: where to write.
        journal: of the folder of `change_map`.
        tile_size: side in pixels of a tile's write box.
        batch_size: tiles per call of the predictor.
        mapper: how blocks of tiles are executed.
        progress: progress callback, called after each block.
    """
    raster = change_map.prob
    if not (journal.resumed and raster.restore()):
        raster.create()
        journal.start(tile_size)
    tiling = predictor.tiling
    tiles = scene_tiles(pair, tile_size, tiling)
    done = journal.done()
    todo = [
        tile
        for tile in tiles
        if tile.index not in done or done[tile.index] != _checksum(raster.read(tile.write))
    ]
    finished = len(tiles) - len(todo)
    progress("change", finished, len(tiles))
    work = partial(run_block, pair, predictor)
    for results in mapper(work, batches(todo, batch_size)):
        for tile, prob in results:
            raster.write(tile.write, prob)
        journal.add({tile.index: _checksum(prob) for tile, prob in results})
        finished += len(results)
        progress("change", finished, len(tiles))


def _checksum(prob: FloatArray) -> int:
    return crc32(np.ascontiguousarray(prob, "<f4").data)


@dataclass(frozen=True)
class Seam:
    """Difference between the result at tile edges and the result with full context."""

    mean_abs: float
    """Mean absolute difference in probability, over `SEAM_PX` pixels on both sides of edges."""
    max_abs: float
    flipped_share: float
    """Fraction of these pixels that cross the threshold."""


def measure_seam(
    pair: ScenePair,
    predictor: Predictor,
    change_map: ChangeMap,
    tile_size: int,
    mapper: Mapper = map,
) -> Seam | None:
    """Predict again across a few tile edges, with the edge at the centre of the tile.

    Returns:
        None if the model's halo covers its receptive field, or the scene is a single tile.
    """
    tiling = predictor.tiling
    tiles = scene_tiles(pair, tile_size, tiling)
    inner = [tile for tile in tiles if tile.write.col > 0]
    if tiling.exact or not inner:
        return None
    edges = [_at_edge(tile, tiling.multiple) for tile in inner[:: -(-len(inner) // SEAM_SAMPLES)]]
    # a narrow tile at the end of a scene, once moved, may not reach its own edge
    jobs = [[edge] for edge in edges if edge.write.common(edge.read) == edge.write]
    if not jobs:
        return None
    found, wanted = [], []
    for [(edge, prob)] in mapper(partial(run_block, pair, predictor), jobs):
        found.append(change_map.prob.read(edge.write).ravel())
        wanted.append(prob.ravel())
    a, b = np.concatenate(found), np.concatenate(wanted)
    a, b = a[~np.isnan(a)], b[~np.isnan(b)]
    if not a.size:
        return None
    difference = np.abs(a - b)
    flipped = (a >= change_map.threshold) != (b >= change_map.threshold)
    return Seam(float(difference.mean()), float(difference.max()), float(flipped.mean()))


def _at_edge(tile: Tile, multiple: int) -> Tile:
    """The tile moved left by half its width, so that its left edge is at the centre."""
    read, write = tile.read, tile.write
    start = max(0, write.col - SEAM_PX)
    width = min(write.col + SEAM_PX, write.col + write.width) - start
    half = round_up(write.width // 2, multiple)
    return replace(
        tile, read=replace(read, col=read.col - half), write=replace(write, col=start, width=width)
    )
