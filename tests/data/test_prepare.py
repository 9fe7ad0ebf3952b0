"""The published tilings, on stand-ins of the same layout and by arithmetic."""

import errno
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp

from rscd.base.errors import DataError, OutputError
from rscd.data import prepare as module
from rscd.data.folder import PairFolder
from rscd.data.images import read_label_values, read_picture, write_picture
from rscd.data.labels import read_label_list
from rscd.data.prepare import BLOCK_CACHE, Manifest, prepare
from rscd.data.sources import open_source
from rscd.data.splits import read_split
from rscd.data.tiles import parent_of, tile_from_name
from rscd.data.tilings import (
    PUBLISHED,
    Cut,
    Published,
    move_tiles,
    plan,
    tile_origins,
    whu_split,
)

PATCH = 16
GRID = Affine(0.5, 0, 100, 0, -0.5, 200)


def failed(manifest: Manifest) -> tuple[str, ...]:
    """Checks against the published numbers that did not hold."""
    return tuple(check["what"] for check in manifest.content["checks"] if not check["ok"])


def random_pixels(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)


def label(height: int, width: int, seed: int) -> np.ndarray:
    return (random_pixels((1, height // 8 + 1, width // 8 + 1), seed) > 200).astype(
        np.uint8
    ).repeat(8, 1).repeat(8, 2)[:, :height, :width] * np.uint8(255)


def whu(
    folder: Path, height: int = 70, width: int = 90, suffix: str = ".tif", crs: CRS | None = None
) -> dict[str, Any]:
    arrays = {
        "before/before": random_pixels((3, height, width), 0),
        "after/after": random_pixels((3, height, width), 1),
        "change label/change_label": label(height, width, 2),
        "before/before_label": label(height, width, 3),
    }
    for name, array in arrays.items():
        path = folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(path, array, crs, GRID if crs else None)
    return arrays


def parts(
    folder: Path,
    counts: dict[str, int],
    side: int,
    names: tuple[str, str, str] = ("A", "B", "label"),
) -> None:
    for split, n in counts.items():
        for i in range(1, n + 1):
            for date, name in enumerate(names):
                path = folder / split / name / f"{split}_{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                seed = date + 10 * i + len(split) * 1000
                image = random_pixels((3, side, side), seed)
                array = label(side, side, seed) if date == 2 else image
                write_picture(path, array)


def test_published_arithmetic() -> None:
    origins = tile_origins((15354, 32507), 256)
    assert len(origins) == 7434 == 126 * 59
    assert origins[125] == (125 * 256, 0)
    assert origins[126] == (0, 256)
    split = whu_split([f"whucd_{i:05d}" for i in range(1, 7435)], 0)
    assert split.counts == PUBLISHED["whu"].counts
    assert len(tile_origins((1024, 1024), 256)) * 445 == PUBLISHED["levir"].counts["train"]


def dsifn_parts(train: int) -> dict[str, list[Cut]]:
    files = (Path("a"), Path("b"), Path("c"))
    return {
        part: [
            Cut(f"{part}_{i}_{j}", f"{part}_{i}", files, 0, 0) for i in range(n) for j in range(4)
        ]
        for part, n in (("train", train), ("val", 340), ("test", 48))
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_dsifn_moves_parents(seed: int) -> None:
    moved, notes = move_tiles(dsifn_parts(3600), seed)
    assert {part: len(cuts) for part, cuts in moved.items()} == PUBLISHED["dsifn"].counts
    both = {c.parent for c in moved["train"]} & {c.parent for c in moved["test"]}
    assert len(both) == 1
    assert notes == [f"parent {both.pop()} has 2 tiles in test and the others in train"]

    whole, notes = move_tiles(dsifn_parts(3600), seed, whole_parents=True)
    assert [len(cuts) for cuts in whole.values()] == [12760, 1360, 1832]
    assert not {c.parent for c in whole["train"]} & {c.parent for c in whole["test"]}
    assert notes == []


@given(st.integers(0, 100))
@settings(deadline=None)
def test_dsifn_stand_ins_keep_every_tile(train: int) -> None:
    before = dsifn_parts(train)
    after, _ = move_tiles(before, 0)
    assert len(after["train"]) == 4 * train - 4 * train * 1638 // 14400
    everyone = [cut.name for cuts in after.values() for cut in cuts]
    assert sorted(everyone) == sorted(cut.name for cuts in before.values() for cut in cuts)


def test_whu_tiles_are_windows_of_the_scene(tmp_path: Path) -> None:
    arrays = whu(tmp_path / "src")
    manifest = prepare("whu", tmp_path / "src", tmp_path / "dst", patch=PATCH)
    assert manifest.counts == {"train": 16, "val": 2, "test": 2}  # 5 x 4 tiles
    assert manifest.content["notes"] == ["not the published size: nothing to compare with"]
    data = PairFolder(tmp_path / "dst")
    assert data.names == tuple(f"whucd_{i:05d}" for i in range(1, 21))
    for number, (column, row) in enumerate(tile_origins((70, 90), PATCH)):
        sample = data[number]
        window = (slice(None), slice(row, row + PATCH), slice(column, column + PATCH))
        assert np.array_equal(sample["image"][0], arrays["before/before"][window])
        assert np.array_equal(sample["image"][1], arrays["after/after"][window])
        change = arrays["change label/change_label"][window] > 0
        assert np.array_equal(sample["mask"], change)
        record = manifest.content["tiles"][data.names[number]]
        assert record["window"] == [column, row, PATCH, PATCH]
        assert record["changed"] == change.sum()
        assert record["label"] == change.any()


def test_prepared_folder_is_ready_for_training(tmp_path: Path) -> None:
    whu(tmp_path / "src")
    manifest = prepare("whu", tmp_path / "src", tmp_path / "dst", patch=PATCH)
    dst = tmp_path / "dst"
    split = read_split(dst / "split.json")
    assert split.hash == manifest.content["split_hash"]
    assert json.loads((dst / "manifest.json").read_text()) == manifest.content
    shutil.rmtree(dst / "label")
    for part, names in split.parts.items():
        weak = PairFolder(dst, part, keys={"image", "label"})
        assert sorted(weak.names) == sorted(names)
        labels = read_label_list(dst / "list" / f"{part}_label.txt")
        found = [int(weak[i]["label"]) for i in range(len(weak))]
    assert found == [labels[name] for name in weak.names]


def test_georeferencing_is_kept(tmp_path: Path) -> None:
    whu(tmp_path / "src", crs=CRS.from_epsg(2193))
    prepare("whu", tmp_path / "src", tmp_path / "dst", patch=PATCH)
    data = PairFolder(tmp_path / "dst", names=["whucd_00007"])  # second row, second column
    sample = data[0]
    assert sample["crs"].to_epsg() == 2193
    assert sample["transform"] == Affine(0.5, 0, 108, 0, -0.5, 192)
    with rasterio.open(tmp_path / "dst" / "label" / "whucd_00007.tif") as mask:
        assert mask.transform == sample["transform"]
    assert not list((tmp_path / "dst").rglob("*.png"))
    lists = (tmp_path / "dst" / "list" / "val.txt").read_text().split()
    assert all(name.endswith(".tif") for name in lists)


def test_tiles_say_of_themselves_what_their_source_says(tmp_path: Path) -> None:
    whu(tmp_path, crs=CRS.from_epsg(2193))
    folders = {"before": 7, "after": 9}
    kinds = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    for date, nodata in folders.items():
        with rasterio.open(next((tmp_path / date).glob(f"{date}.*")), "r+") as source:
            source.nodata = nodata
            source.colorinterp = kinds
            source.scales, source.offsets = (0.5,) * 3, (float(nodata),) * 3
    with rasterio.open(next((tmp_path / "change label").glob("*.tif")), "r+") as source:
        values = source.read(1)
        values[:20] = 99
        source.nodata = 99
        source.write(values, 1)
    prepare("whu", tmp_path, tmp_path / "dst", patch=PATCH)
    for name, nodata in zip("AB", folders.values(), strict=True):
        for path in (tmp_path / "dst" / name).iterdir():
            with rasterio.open(path) as tile:
                assert tile.nodata == nodata
                assert list(tile.colorinterp) == kinds
                assert (tile.scales, tile.offsets) == ((0.5,) * 3, (float(nodata),) * 3)
    with rasterio.open(tmp_path / "dst" / "label" / "whucd_00001.tif") as tile:
        stored = tile.read(1)
    assert (stored == 127).all()
    assert not list((tmp_path / "dst").rglob("*.aux.xml"))


def test_format_does_not_change_the_tiles(tmp_path: Path) -> None:
    whu(tmp_path / "tif")
    whu(tmp_path / "png", suffix=".png")
    hashes = [
        prepare("whu", tmp_path / s, tmp_path / f"{s}-dst", patch=PATCH).content["hash"]
        for s in ("tif", "png")
    ]
    assert hashes[0] == hashes[1]


def test_large_plain_files_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = whu(tmp_path, suffix=".png")
    monkeypatch.setattr("rscd.data.sources.SMALL_PIXELS", 100)
    with open_source(tmp_path / "before" / "before.png") as source:
        assert source.pixels is None
        assert np.array_equal(source.strip(10, 16), arrays["before/before"][:, 10:26])
    broken = tmp_path / "before" / "before.png"
    broken.write_bytes(broken.read_bytes()[:-30])
    with pytest.raises(
        DataError, match=r"before\.png: cannot be read, .*\(the file is truncated\)"
    ):
        prepare("whu", tmp_path, tmp_path / "dst", patch=PATCH)


def test_levir(tmp_path: Path) -> None:
    parts(tmp_path / "src", {"train": 3, "val": 1, "test": 2}, 4 * PATCH)
    manifest = prepare("levir", tmp_path / "src", tmp_path / "dst", patch=PATCH)
    assert manifest.counts == {"train": 48, "val": 16, "test": 32}
    data = PairFolder(tmp_path / "dst", "test")
    assert data.names[0] == "test_1_1"
    whole = read_picture(tmp_path / "src" / "test" / "A" / "test_2.png").pixels
    tile = read_picture(tmp_path / "dst" / "A" / "test_2_6.png").pixels
    assert np.array_equal(tile, whole[:, PATCH : 2 * PATCH, PATCH : 2 * PATCH])
    named = tile_from_name("test_2_6")
    assert named is not None
    assert named.box == (256.0, 256.0, 512.0, 512.0)
    assert parent_of("test_2_6") == manifest.content["tiles"]["test_2_6"]["parent"] == "test_2"


def test_tiles_of_levir_by_columns(tmp_path: Path) -> None:
    parts(tmp_path / "src", {"train": 1, "val": 1, "test": 1}, 4 * PATCH)
    manifest = prepare(
        "levir", tmp_path / "src", tmp_path / "dst", patch=PATCH, tile_order="columns"
    )
    assert "tiles of a scene are numbered by columns" in manifest.content["notes"][0]
    whole = read_picture(tmp_path / "src" / "test" / "A" / "test_1.png").pixels
    tile = read_picture(tmp_path / "dst" / "A" / "test_1_2.png").pixels
    assert np.array_equal(tile, whole[:, PATCH : 2 * PATCH, :PATCH])
    with pytest.raises(OutputError):
        prepare("levir", tmp_path / "src", tmp_path / "dst", patch=PATCH)
    with pytest.raises(DataError, match="expected tile order rows for whu"):
        prepare("whu", tmp_path / "src", tmp_path / "new", tile_order="columns")


def test_levir_as_torchgeo_unpacks_it(tmp_path: Path) -> None:
    parts(tmp_path / "src", {"train": 2, "val": 1, "test": 1}, 4 * PATCH)
    for folder in ("A", "B", "label"):
        (tmp_path / "flat" / folder).mkdir(parents=True)
        for split in ("train", "val", "test"):
            for path in (tmp_path / "src" / split / folder).iterdir():
                shutil.copy(path, tmp_path / "flat" / folder / path.name)
    one = prepare("levir", tmp_path / "src", tmp_path / "dst1", patch=PATCH)
    two = prepare("levir", tmp_path / "flat", tmp_path / "dst2", patch=PATCH)
    assert one.content["hash"] == two.content["hash"]


def test_dsifn(tmp_path: Path) -> None:
    parts(tmp_path / "src", {"train": 12, "val": 2, "test": 1}, 2 * PATCH, ("t1", "t2", "mask"))
    manifest = prepare("dsifn", tmp_path / "src", tmp_path / "dst", patch=PATCH, seed=3)
    assert manifest.counts == {"train": 43, "val": 8, "test": 9}  # 48 * 1638 // 14400 = 5 move
    assert "has 1 tiles in test" in manifest.content["notes"][0]
    whole = prepare(
        "dsifn", tmp_path / "src", tmp_path / "whole", patch=PATCH, seed=3, whole_parents=True
    )
    assert whole.counts == {"train": 40, "val": 8, "test": 12}


def test_resumes_where_it_stopped(tmp_path: Path) -> None:
    whu(tmp_path / "src")
    whole = prepare("whu", tmp_path / "src", tmp_path / "whole", patch=PATCH)

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        assert total == 20
        if done == 7:
            raise Stop

    with pytest.raises(Stop):
        prepare("whu", tmp_path / "src", tmp_path / "dst", patch=PATCH, progress=stop)
    assert not (tmp_path / "dst" / "manifest.json").exists()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "dst").rglob("*.png")}
    (tmp_path / "dst" / "A" / "whucd_00002.png").unlink()
    resumed = prepare("whu", tmp_path / "src", tmp_path / "dst", patch=PATCH)
    assert resumed.content == whole.content
    second_row = tmp_path / "dst" / "A" / "whucd_00007.png"
    assert second_row.stat().st_mtime_ns == before[second_row]
    assert not list((tmp_path / "dst").rglob("*.part*"))


def test_memory_does_not_follow_the_scene(tmp_path: Path) -> None:
    whu(tmp_path / "src")
    caches: list[int] = []

    def note(_done: int, _total: int) -> None:
        caches.append(rasterio.env.getenv()["GDAL_CACHEMAX"])

    prepare("whu", tmp_path / "src", tmp_path / "dst", patch=PATCH, progress=note)
    # GDAL's own default is a share of the machine's memory and fills with blocks of the scene
    assert set(caches) == {BLOCK_CACHE}


def test_another_run_is_not_overwritten(tmp_path: Path) -> None:
    whu(tmp_path / "src")
    prepare("whu", tmp_path / "src", tmp_path / "dst", patch=PATCH)
    with pytest.raises(OutputError, match=r"was begun, found other seed; give a new folder"):
        prepare("whu", tmp_path / "src", tmp_path / "dst", patch=PATCH, seed=1)
    whu(tmp_path / "other", height=71)
    with pytest.raises(OutputError, match="found other source"):
        prepare("whu", tmp_path / "other", tmp_path / "dst", patch=PATCH)
    with pytest.raises(OutputError, match=r"empty or begun by the same command, found after"):
        prepare("whu", tmp_path / "src", tmp_path / "other", patch=PATCH)


def test_a_folder_of_version_0_1_is_resumed_with_the_same_settings_alone(tmp_path: Path) -> None:
    whu(tmp_path / "src")
    made = prepare("whu", tmp_path / "src", tmp_path / "dst", patch=PATCH)
    noted = json.loads((tmp_path / "dst" / "claim.json").read_text())
    (tmp_path / "dst" / "claim.json").unlink()
    (tmp_path / "dst" / "prepare.json").write_text(json.dumps(noted["tiles"]))
    with pytest.raises(OutputError, match="found other seed"):
        prepare("whu", tmp_path / "src", tmp_path / "dst", patch=PATCH, seed=1)
    assert prepare("whu", tmp_path / "src", tmp_path / "dst", patch=PATCH).content == made.content


def test_checks_against_published_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whu(tmp_path / "src", 256 * 2, 256 * 5)
    small = Published((512, 1280), {"train": 8, "val": 1, "test": 1}, 0.21, 0.1)
    monkeypatch.setitem(PUBLISHED, "whu", small)
    good = prepare("whu", tmp_path / "src", tmp_path / "good")
    assert [check["what"] for check in good.content["checks"]][-1] == "test change share"
    assert failed(good) == ()
    monkeypatch.setitem(PUBLISHED, "whu", Published((512, 1280), {"train": 9}, 0.9, 0.1))
    with caplog.at_level(logging.WARNING):
        bad = prepare("whu", tmp_path / "src", tmp_path / "bad")
    assert failed(bad) == (
        "train tiles",
        "test change share",
    )
    assert "train tiles: expected 9, found 8" in caplog.text


def test_label_values(tmp_path: Path) -> None:
    parts(tmp_path / "src", {"train": 1, "val": 1, "test": 1}, 2 * PATCH)
    odd = np.zeros((1, 2 * PATCH, 2 * PATCH), np.uint8)
    odd[0, :PATCH, PATCH:] = 7
    write_picture(tmp_path / "src" / "train" / "label" / "train_1.png", odd)
    with pytest.raises(DataError, match=r"train_1\.png: expected label values"):
        prepare("levir", tmp_path / "src", tmp_path / "dst", patch=PATCH)
    mapping = {0: 0, 255: 1, 7: 255}
    manifest = prepare(
        "levir", tmp_path / "src", tmp_path / "new", patch=PATCH, mask_values=mapping
    )
    stored = read_label_values(tmp_path / "new" / "label" / "train_1_2.png")
    assert np.unique(stored).tolist() == [127]
    assert manifest.content["tiles"]["train_1_2"]["counted"] == 0
    assert manifest.content["tiles"]["train_1_2"]["label"] == 0


def test_what_a_picture_shows_as_transparent_has_no_label(tmp_path: Path) -> None:
    side = 2 * PATCH
    parts(tmp_path / "src", {"train": 1, "val": 1, "test": 1}, side)
    whole = label(side, side, 12 + 5000)[0] == 255
    for date, hidden in (("A", np.s_[:5, :]), ("B", np.s_[:, side - 3 :])):
        path = tmp_path / "src" / "train" / date / "train_1.png"
        alpha = np.full((side, side), 255, np.uint8)
        alpha[hidden] = 0
        Image.fromarray(np.dstack([np.asarray(Image.open(path)), alpha])).save(path)
    prepare("levir", tmp_path / "src", tmp_path / "dst", patch=PATCH)
    seen = np.ones((side, side), bool)
    seen[:5], seen[:, side - 3 :] = False, False
    for n, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1)), 1):
        at = np.s_[PATCH * row : PATCH * (row + 1), PATCH * column : PATCH * (column + 1)]
        stored = read_label_values(tmp_path / "dst" / "label" / f"train_1_{n}.png")
        assert np.array_equal(stored, np.where(seen[at], 255 * whole[at], 127))


def test_255_has_one_meaning_in_the_labels_of_a_set(tmp_path: Path) -> None:
    parts(tmp_path / "src", {"train": 2, "val": 1, "test": 1}, 2 * PATCH)
    mask = np.zeros((1, 2 * PATCH, 2 * PATCH), np.uint8)
    mask[0, 0, :2] = 1, 255
    write_picture(tmp_path / "src" / "train" / "label" / "train_2.png", mask)
    with pytest.raises(DataError, match=r"found 0 and 255 alone in train_1\.png and 1 beside 255"):
        prepare("levir", tmp_path / "src", tmp_path / "dst", patch=PATCH)


def test_incomplete_sources(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no published tiling 'cdd'; known are whu, levir, dsifn"):
        prepare("cdd", tmp_path, tmp_path / "dst")
    with pytest.raises(DataError, match="expected the folder of the set"):
        prepare("whu", tmp_path / "none", tmp_path / "dst")
    whu(tmp_path / "src", suffix=".png")
    (tmp_path / "src" / "after" / "after.png").unlink()
    with pytest.raises(DataError, match=r"t1: before\.png; t2: none; mask: change_label\.png"):
        prepare("whu", tmp_path / "src", tmp_path / "dst")
    write_picture(tmp_path / "src" / "after" / "after.png", random_pixels((3, 70, 91), 0))
    with pytest.raises(DataError, match=r"size \(before\.png 90 x 70, after\.png 91 x 70"):
        prepare("whu", tmp_path / "src", tmp_path / "dst")
    write_picture(tmp_path / "src" / "after" / "after.png", random_pixels((3, 70, 90), 0))
    with pytest.raises(DataError, match="contain no tile of 256"):
        prepare("whu", tmp_path / "src", tmp_path / "dst")
    parts(tmp_path / "levir", {"train": 1, "val": 1, "test": 1}, 32)
    (tmp_path / "levir" / "val" / "label" / "val_1.png").unlink()
    with pytest.raises(DataError, match="val_1 has no label file"):
        prepare("levir", tmp_path / "levir", tmp_path / "dst")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("last", [1, 3])
def test_a_tile_that_cannot_be_written_is_no_damage_of_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, last: int
) -> None:
    whu(tmp_path / "src")
    written = []

    def full(path: Path, *args: Any, **keywords: Any) -> None:
        written.append(path)
        if len(written) == last:
            raise OSError(number, os.strerror(number))
        write_picture(path, *args, **keywords)

    monkeypatch.setattr(module, "write_picture", full)
    with pytest.raises(OutputError) as told:
        prepare("whu", tmp_path / "src", tmp_path / "dst", patch=PATCH)
    assert f"expected to write {written[-1]}, found: {os.strerror(number)}" in str(told.value)


def test_published_whu_size_is_planned_without_reading(tmp_path: Path) -> None:
    files = []
    profile = {"driver": "GTiff", "dtype": "uint8", "height": 15354, "width": 32507}
    for name, bands in (("before", 3), ("after", 3), ("change_label", 1)):
        files.append(tmp_path / f"{name}.tif")
        with rasterio.open(
            files[-1], "w", **profile, count=bands, tiled=True, SPARSE_OK=True, transform=GRID
        ):
            pass
    cuts, split, sources, notes = plan("whu", tmp_path)
    assert len(cuts) == 7434
    assert cuts[0].files == tuple(files)
    assert split.counts == PUBLISHED["whu"].counts
    assert sources == PUBLISHED["whu"].sources
    assert notes == []
    settings = {"patch": 256, "whole_parents": False}
    checks = module._checks("whu", settings, sources, split.counts, {"test": 0.041})
    assert len(checks) == 4
    assert all(check["ok"] for check in checks)


def test_a_tile_is_judged_by_its_whole_file(tmp_path: Path) -> None:
    parts(tmp_path / "src", {"train": 1, "val": 1, "test": 1}, 2 * PATCH)
    values = np.zeros((1, 2 * PATCH, 2 * PATCH), np.uint8)
    values[0, 0, 0], values[0, -1, -1] = 255, 1
    write_picture(tmp_path / "src" / "train" / "label" / "train_1.png", values)
    prepare("levir", tmp_path / "src", tmp_path / "dst", patch=PATCH)
    folder = tmp_path / "dst" / "label"
    first, *_, last = (read_label_values(folder / f"train_1_{n}.png") for n in (1, 2, 3, 4))
    assert np.unique(first).tolist() == [0, 127]  # 255 is ignored beside the 1 of another tile
    assert np.unique(last).tolist() == [0, 255]
