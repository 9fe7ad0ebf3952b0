"""Splits are disjoint, reproducible, and tell when they leak."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio import Affine
from rasterio.crs import CRS

from rscd.base.errors import DataError
from rscd.data.images import Picture, read_picture, write_picture
from rscd.data.leaks import Leak, LeakReport, check_leaks, content_hash
from rscd.data.splits import (
    Split,
    group_split,
    labeled_split,
    part_counts,
    published_split,
    random_split,
    read_split,
)
from rscd.data.tiles import Tile, find_tiles, parent_of, tile_from_name, touching_pairs

How = Literal["random", "first"]

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def named(n: int) -> list[str]:
    return [f"p{i:05d}" for i in range(n)]


def grid(rows: int, columns: int, side: float = 256, scene: str = "s") -> list[Tile]:
    return [
        Tile(f"{scene}_r{r}_c{c}", scene, (c * side, r * side, (c + 1) * side, (r + 1) * side))
        for r in range(rows)
        for c in range(columns)
    ]


# counts of methods/diffmatch.md section 5.1
@pytest.mark.parametrize(
    ("n", "percent", "labeled"),
    [
        (7120, 5, 356),
        (7120, 10, 712),
        (7120, 20, 1424),
        (7120, 40, 2848),
        (5947, 5, 297),
        (5947, 10, 594),
        (5947, 20, 1189),
        (5947, 40, 2378),
    ],
)
@pytest.mark.parametrize("how", ["random", "first"])
def test_published_counts(n: int, percent: int, labeled: int, how: How) -> None:
    split = labeled_split(named(n), percent, how)
    assert split.counts == {"labeled": labeled, "unlabeled": n - labeled}


@given(st.integers(20, 200), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_smaller_percentages_are_prefixes(n: int, seed: int) -> None:
    names = named(n)
    ways: tuple[How, ...] = ("random", "first")
    for how in ways:
        lists = [labeled_split(names, p, how, seed)["labeled"] for p in (5, 10, 20, 40)]
        for small, large in itertools.pairwise(lists):
            assert large[: len(small)] == small
    assert labeled_split(names, 5, "first")["labeled"] == tuple(names[: n * 5 // 100])


@given(st.integers(0, 300), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_random_split_is_a_partition(n: int, seed: int) -> None:
    split = random_split(named(n), SHARES, seed)
    everyone = [name for names in split.parts.values() for name in names]
    assert sorted(everyone) == named(n)
    assert split.counts["train"] == n * 8 // 10
    assert split.counts["val"] == n // 10
    assert random_split(named(n)[::-1], SHARES, seed).hash == split.hash


def test_seeds_and_hashes() -> None:
    one, two = random_split(named(50), SHARES, 1), random_split(named(50), SHARES, 2)
    assert one.hash != two.hash
    backwards = reversed(list(one.parts.items()))
    reordered = Split({p: tuple(reversed(n)) for p, n in backwards}, "by hand")
    assert reordered.hash == one.hash
    renamed = Split({("dev" if p == "val" else p): n for p, n in one.parts.items()}, "")
    assert renamed.hash != one.hash
    # a stored hash must mean the same on every machine and in every release
    assert Split({"b": ("y", "x"), "a": ("ü",)}, "").hash == (
        "b60ae5e6eca89943d8da936552c2dc5c1f2b145544b201439e6918cea7ae88a4"
    )


def test_counts_instead_of_shares() -> None:
    assert part_counts(7434, {"train": 5947, "val": 743, "test": 744})["test"] == 744
    assert part_counts(100, {"a": 0.29, "b": 0.71}) == {"a": 29, "b": 71}
    with pytest.raises(DataError, match="do not fit 3 pairs"):
        part_counts(3, {"a": 4})
    with pytest.raises(DataError, match=r"sum to 0\.9; they must sum to 1"):
        part_counts(3, {"a": 0.4, "b": 0.5})
    with pytest.raises(DataError, match="at least one part"):
        random_split(named(3), {})


def test_names_in_two_parts_are_refused() -> None:
    with pytest.raises(DataError, match="pair 'a' of part 'test' is also in 'train'"):
        Split({"train": ("a",), "test": ("a",)}, "")
    with pytest.raises(DataError, match="pair 'a' of part 'train' is twice"):
        Split({"train": ("a", "a")}, "")
    with pytest.raises(DataError, match="no part 'val'; it has train"):
        Split({"train": ("a",)}, "")["val"]


def test_files_round_trip(tmp_path: Path) -> None:
    split = random_split(named(30), SHARES, 3)
    split.write(tmp_path / "split.json")
    assert read_split(tmp_path / "split.json") == split
    split.write(tmp_path / "lists")
    assert (tmp_path / "lists" / "val.txt").read_text().count("\n") == 3
    assert read_split(tmp_path / "lists").hash == split.hash
    assert not list(tmp_path.rglob("*.part"))


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    random_split(named(10), SHARES).write(path)
    content = json.loads(path.read_text())
    content["parts"]["train"][0] = "other"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="do not match the stored hash; the file was edited"):
        read_split(path)
    path.write_text(json.dumps({"format": "rscd-split/1", "parts": 3}))
    with pytest.raises(DataError, match="damaged split"):
        read_split(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="expected a split of format"):
        read_split(path)
    path.write_text("{")
    with pytest.raises(DataError, match="no readable split"):
        read_split(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no lists"):
        read_split(tmp_path / "empty")


def published(folder: Path, n: int = 60) -> None:
    names = [f"{name}.png" for name in named(n)]
    for p in (5, 10, 20, 40):
        here = folder / f"{p}%"
        here.mkdir(parents=True)
        (here / "labeled.txt").write_text("\n".join(names[: n * p // 100]) + "\n")
        (here / "unlabeled.txt").write_text("\n".join(names[n * p // 100 :]))
    (folder / "train.txt").write_text("\n".join(names))
    (folder / "val.txt").write_text("v1.png\nv2.png\n")


def test_published_lists_are_read_and_checked(tmp_path: Path) -> None:
    published(tmp_path)
    split = published_split(tmp_path, 20)
    assert split.counts == {"labeled": 12, "unlabeled": 48, "val": 2}
    assert split["labeled"] == tuple(named(12))
    with pytest.raises(DataError, match=r"15%, found no such lists"):
        published_split(tmp_path, 15)
    (tmp_path / "train.txt").write_text("\n".join(named(59)) + "\nother.png\n")
    with pytest.raises(DataError, match=r"not those of train\.txt"):
        published_split(tmp_path, 20)
    (tmp_path / "20%" / "unlabeled.txt").write_text("x.png\n")
    with pytest.raises(DataError, match="12 of 13 training pairs are labelled, 20 % is 2"):
        published_split(tmp_path, 20)
    (tmp_path / "20%" / "unlabeled.txt").write_text("p00000.png\n")
    with pytest.raises(DataError, match="also in 'labeled'"):
        published_split(tmp_path, 20)


@given(st.lists(st.integers(1, 16), min_size=3, max_size=40), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_groups_stay_together(sizes: list[int], seed: int) -> None:
    names = [f"train_{g}_{i + 1}" for g, size in enumerate(sizes) for i in range(size)]
    split = group_split(names, parent_of, {"train": 0.7, "test": 0.3}, seed)
    assert sorted(n for part in split.parts.values() for n in part) == sorted(names)
    parents = [{parent_of(name) for name in part} for part in split.parts.values()]
    assert not parents[0] & parents[1]
    assert abs(split.counts["train"] - 0.7 * len(names)) <= 16


def test_groups_by_count() -> None:
    names = [f"train_{g}_{i}" for g in range(10) for i in range(1, 5)]
    split = group_split(names, parent_of, {"train": 8, "test": 4})
    assert split.counts == {"train": 8, "test": 4}


@pytest.mark.parametrize(
    ("name", "scene", "box"),
    [
        ("whucd_00001", "whucd", (0, 0, 256, 256)),
        ("whucd_00127", "whucd", (0, 256, 256, 512)),
        ("whucd_07434", "whucd", (125 * 256, 58 * 256, 126 * 256, 59 * 256)),
        ("train_12_6", "train_12", (256, 256, 512, 512)),
        ("test_2_0256_0512", "test_2", (512, 256, 768, 512)),
        ("AOI1-tile_2-3", "AOI1", (768, 512, 1024, 768)),
        ("scene_r003_c012", "scene", (12 * 256, 768, 13 * 256, 1024)),
    ],
)
def test_published_names(name: str, scene: str, box: tuple[int, int, int, int]) -> None:
    assert tile_from_name(name) == Tile(name, scene, box)
    assert parent_of(f"train/{name}") == scene


def test_names_that_say_nothing() -> None:
    assert tile_from_name("hurricane-harvey_00000001") is None
    assert parent_of("00017") == "00017"


def test_touching() -> None:
    tiles = grid(1, 3) + grid(1, 1, scene="other")
    assert touching_pairs(tiles) == [("s_r0_c0", "s_r0_c1"), ("s_r0_c1", "s_r0_c2")]
    corner = [Tile("a", "s", (0, 0, 1, 1)), Tile("b", "s", (1, 1, 2, 2))]
    assert touching_pairs(corner) == [("a", "b")]


def test_leaks_by_place_parent_and_content() -> None:
    tiles = grid(1, 4)
    names = [tile.name for tile in tiles]
    split = Split({"train": tuple(names[:2]), "test": (names[2], "alone"), "val": (names[3],)}, "")
    report = check_leaks(split, tiles, {names[0]: ("x", "y"), "alone": ("z", "x")})
    assert Counter(leak.kind for leak in report.leaks) == {"parent": 3, "touching": 2, "content": 1}
    assert report.checked == ("names", "parents", "touching", "content")
    assert Leak("touching", names[1], names[2], ("train", "test")) in report.leaks
    clean = check_leaks(Split({"train": ("a",), "test": ("b",)}, ""))
    assert clean == LeakReport((), ("names", "parents"))


def test_labelled_and_unlabelled_neighbours_are_no_leak() -> None:
    tiles = grid(1, 3)
    parts = {"labeled": ("s_r0_c0",), "unlabeled": ("s_r0_c1",), "buffer": ("s_r0_c2",)}
    assert not check_leaks(Split(parts, ""), tiles).leaks


def test_content_is_compared_decoded(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (3, 8, 8), dtype=np.uint8)
    write_picture(tmp_path / "a.png", array)
    write_picture(tmp_path / "b.tif", array)
    write_picture(tmp_path / "black.png", np.zeros_like(array))
    names = ("a.png", "b.tif", "black.png")
    hashes = {
        n: [content_hash(read_picture(tmp_path / f)) for f in (n, "black.png")] for n in names
    }
    split = Split({"train": ("a.png", "black.png"), "test": ("b.tif",)}, "")
    assert [leak.kind for leak in check_leaks(split, hashes=hashes).leaks] == ["content"]
    assert content_hash(Picture(array, None)) != content_hash(
        Picture(array.reshape(3, 4, 16), None)
    )


def test_georeferenced_tiles(tmp_path: Path) -> None:
    array = np.ones((1, 8, 8), np.uint8)
    for i in range(2):
        grid_i = Affine(0.5, 0, 4 * i, 0, -0.5, 0)
        write_picture(tmp_path / f"{i}.tif", array, CRS.from_epsg(32633), grid_i)
    write_picture(tmp_path / "plain.tif", array)
    tiles = find_tiles([(n, tmp_path / f"{n}.tif") for n in ("0", "1", "plain")])
    assert [(t.name, t.scene, t.box) for t in tiles] == [
        ("0", "EPSG:32633", (0, -4, 4, 0)),
        ("1", "EPSG:32633", (4, -4, 8, 0)),
    ]
    split = Split({"train": ("0",), "test": ("1", "plain")}, "")
    assert [leak.kind for leak in check_leaks(split, tiles).leaks] == ["touching"]
