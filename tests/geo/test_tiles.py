"""Tiles: a partition of the scene, with context around each part."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rscd.geo.tiles import Box, Tile, batches, plan_tiles, reflect, round_up

sides = st.integers(1, 90)
plans = st.builds(
    plan_tiles,
    st.tuples(sides, sides),
    st.integers(1, 100),
    st.integers(0, 40),
    st.sampled_from([1, 2, 7, 16, 32]),
)


@given(sides, sides, st.integers(1, 100), st.integers(0, 40), st.sampled_from([1, 2, 7, 16, 32]))
def test_every_pixel_has_exactly_one_owner(
    height: int, width: int, tile_size: int, halo: int, multiple: int
) -> None:
    owners = np.zeros((height, width), int)
    for tile in plan_tiles((height, width), tile_size, halo, multiple):
        write = tile.write
        assert write.row >= 0
        assert write.row + write.height <= height
        assert write.col >= 0
        assert write.col + write.width <= width
        owners[write.row : write.row + write.height, write.col : write.col + write.width] += 1
    assert (owners == 1).all()


@given(sides, sides, st.integers(1, 100), st.integers(0, 40), st.sampled_from([1, 2, 7, 16, 32]))
def test_a_tile_reads_its_halo_at_one_phase_of_the_network(
    height: int, width: int, tile_size: int, halo: int, multiple: int
) -> None:
    for tile in plan_tiles((height, width), tile_size, halo, multiple):
        read, write = tile.read, tile.write
        assert write.row - read.row >= halo
        assert write.col - read.col >= halo
        assert read.row + read.height - (write.row + write.height) >= halo
        assert read.col + read.width - (write.col + write.width) >= halo
        assert [n % multiple for n in (read.row, read.col, read.height, read.width)] == [0] * 4


@given(plans)
def test_inner_cuts_the_write_box_out_of_the_read_box(tiles: list[Tile]) -> None:
    for tile in tiles:
        read = tile.read
        rows = np.arange(read.row, read.row + read.height)[tile.inner[0]]
        cols = np.arange(read.col, read.col + read.width)[tile.inner[1]]
        write = tile.write
        assert (rows[0], cols[0], rows.size, cols.size) == (
            write.row,
            write.col,
            write.height,
            write.width,
        )


@given(plans)
def test_tiles_are_numbered_row_by_row(tiles: list[Tile]) -> None:
    assert [tile.index for tile in tiles] == list(range(len(tiles)))
    corners = [(tile.write.row, tile.write.col) for tile in tiles]
    assert corners == sorted(corners)


@given(plans, st.integers(1, 9))
def test_batches_keep_order_and_have_one_shape(tiles: list[Tile], size: int) -> None:
    cut = list(batches(tiles, size))
    assert [tile for batch in cut for tile in batch] == tiles
    for batch in cut:
        assert 1 <= len(batch) <= size
        assert len({tile.read.shape_hw for tile in batch}) == 1


def test_batches_are_filled_where_shapes_allow() -> None:
    tiles = plan_tiles((64, 64), 16)
    assert [len(batch) for batch in batches(tiles, 6)] == [6, 6, 4]


@given(st.integers(0, 10_000), st.integers(1, 512))
def test_round_up_is_the_smallest_multiple_not_below(value: int, multiple: int) -> None:
    rounded = round_up(value, multiple)
    assert rounded % multiple == 0
    assert value <= rounded < value + multiple


@given(st.integers(1, 12), st.integers(0, 60), st.integers(0, 60))
def test_reflect_is_what_numpy_pads(size: int, before: int, after: int) -> None:
    padded = np.pad(np.arange(size), (before, after), mode="reflect")
    np.testing.assert_array_equal(reflect(-before, size + after, size), padded)


@given(st.integers(1, 12), st.integers(-200, 200), st.integers(1, 60))
def test_reflect_far_outside_agrees_with_reflect_from_the_scene_on(
    size: int, start: int, length: int
) -> None:
    near, far = min(start, 0), max(start + length, size)
    whole = reflect(near, far, size)
    np.testing.assert_array_equal(
        reflect(start, start + length, size), whole[start - near : start - near + length]
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (512, 512), (513, 511)])
def test_scenes_at_and_around_the_tile_size(shape: tuple[int, int]) -> None:
    tiles = plan_tiles(shape, 512)
    assert len(tiles) == (-(-shape[0] // 512)) * (-(-shape[1] // 512))
    assert sum(tile.write.height * tile.write.width for tile in tiles) == shape[0] * shape[1]


def test_tiles_and_boxes_are_values() -> None:
    assert Box(1, 2, 3, 4) == Box(1, 2, 3, 4)
    assert Box(1, 2, 3, 4).shape_hw == (3, 4)
    assert len({Tile(0, Box(0, 0, 1, 1), Box(0, 0, 1, 1))} | set(plan_tiles((1, 1), 1))) == 1


def test_a_grown_box_has_more_on_every_side() -> None:
    assert Box(5, 3, 10, 20).grown(4) == Box(1, -1, 18, 28)
    assert Box(5, 3, 10, 20).grown(4).grown(-4) == Box(5, 3, 10, 20)
