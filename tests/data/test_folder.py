"""Pair folders: every layout gives the same samples, and only requested files are opened."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from PIL import Image
from rasterio import Affine
from rasterio.enums import ColorInterp
from torch.utils.data import DataLoader
from torchgeo.datasets import NonGeoDataset

from rscd.base.errors import DataError
from rscd.data import images
from rscd.data.folder import Layer, PairFolder
from rscd.data.images import read_label_values, read_mask, read_picture, write_picture
from rscd.data.info import info
from rscd.data.labels import format_label_list
from rscd.data.scenes import Scene, ScenePairs
from rscd.data.splits import Split, read_split
from rscd.geo.labels import coding_of
from rscd.training.streams import collate, unpack

H, W = 12, 10


def pixels(seed: int, bands: int = 3, dtype: str = "uint8") -> np.ndarray:
    high = 255 if dtype == "uint8" else 60_000
    return np.random.default_rng(seed).integers(0, high, (bands, H, W)).astype(dtype)


def mask_pixels(seed: int, on: int = 255) -> np.ndarray:
    mask = np.zeros((1, H, W), np.uint8)
    mask[0, seed % H, :] = on
    return mask


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        Image.fromarray(np.moveaxis(array, 0, 2)).save(path, quality=100, subsampling=0)
    else:
        write_picture(path, array)


def make(
    base: Path,
    names: tuple[str, ...] = ("A", "B", "label"),
    n: int = 3,
    suffix: str = ".png",
    stem: str = "p{}",
    on: int = 255,
) -> None:
    for i in range(n):
        save(base / names[0] / (stem.format(i) + suffix), pixels(2 * i))
        save(base / names[1] / (stem.format(i) + suffix), pixels(2 * i + 1))
        if len(names) == 3:
            save(base / names[2] / (stem.format(i) + ".png"), mask_pixels(i, on))


def assert_pair(sample: dict[str, Any], i: int) -> None:
    assert sample["image"].dtype == torch.float32
    assert sample["image"].shape == (2, 3, H, W)
    assert np.array_equal(sample["image"][0], pixels(2 * i))
    assert np.array_equal(sample["image"][1], pixels(2 * i + 1))
    assert sample["mask"].dtype == torch.int64
    assert np.array_equal(sample["mask"], mask_pixels(i, 1))


@pytest.mark.parametrize(
    "names",
    [
        ("A", "B", "label"),
        ("t1", "t2", "mask"),
        ("im1", "im2", "gt"),
        ("T1", "T2", "OUT"),
        ("before", "after", "change label"),
        ("pre", "post", "masks"),
        ("time1", "time2", "label"),
        ("Image1", "Image2", "label"),
        ("t0", "t1", "mask"),
    ],
)
def test_folder_names_are_translated(tmp_path: Path, names: tuple[str, str, str]) -> None:
    make(tmp_path, names)
    data = PairFolder(tmp_path)
    assert isinstance(data, NonGeoDataset)
    assert data.names == ("p0", "p1", "p2")
    for i in range(3):
        assert_pair(data[i], i)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("on", [1, 255])
def test_formats_and_label_codes_agree(tmp_path: Path, suffix: str, on: int) -> None:
    if suffix == ".bmp":
        make(tmp_path, n=1, on=on)
        for name in "AB":
            array = cv2.imread(str(tmp_path / name / "p0.png"))
            assert array is not None
            cv2.imwrite(str(tmp_path / name / "p0.bmp"), array)
            (tmp_path / name / "p0.png").unlink()
    else:
        make(tmp_path, n=1, suffix=suffix, on=on)
    assert_pair(PairFolder(tmp_path)[0], 0)


def test_jpeg_images_pair_with_png_labels(tmp_path: Path) -> None:
    make(tmp_path, ("t1", "t2", "mask"), n=1, suffix=".jpg")
    sample = PairFolder(tmp_path)[0]
    with Image.open(tmp_path / "t1" / "p0.jpg") as image:
        expected = np.moveaxis(np.asarray(image), 2, 0)
    assert np.array_equal(sample["image"][0], expected)
    assert sample["mask"].sum() == W


def test_splits_by_folder_list_and_prefix(tmp_path: Path) -> None:
    make(tmp_path / "folders" / "train", n=2)
    make(tmp_path / "folders" / "valid", n=1)
    assert len(PairFolder(tmp_path / "folders", "train")) == 2
    assert len(PairFolder(tmp_path / "folders", "val")) == 1
    assert PairFolder(tmp_path / "folders").names == ("train/p0", "train/p1", "val/p0")

    make(tmp_path / "lists", n=3)
    (tmp_path / "lists" / "list").mkdir()
    (tmp_path / "lists" / "list" / "train.txt").write_text("p2.png\r\np0.png")
    listed = PairFolder(tmp_path / "lists", "train")
    assert listed.names == ("p2", "p0")
    assert_pair(listed[0], 2)

    make(tmp_path / "prefix", n=2, stem="train_{}")
    make(tmp_path / "prefix", n=1, stem="test_{}")
    assert PairFolder(tmp_path / "prefix", "test").names == ("test_0",)
    with pytest.raises(DataError, match=r"no split 'val' .*list/val.txt.*available: train, test"):
        PairFolder(tmp_path / "prefix", "val")


def test_pairs_side_by_side_in_one_folder(tmp_path: Path) -> None:
    for i in range(2):
        for word, array in (("A", pixels(2 * i)), ("B", pixels(2 * i + 1))):
            save(tmp_path / f"p{i}_{word}.tif", array)
        save(tmp_path / f"p{i}_label.png", mask_pixels(i))
    data = PairFolder(tmp_path)
    assert data.names == ("p0", "p1")
    assert_pair(data[1], 1)


def test_explicit_folders_and_ambiguity(tmp_path: Path) -> None:
    make(tmp_path, ("t1", "t2", "mask"))
    make(tmp_path, ("spring", "autumn", "truth"))
    make(tmp_path, ("A", "B"))
    with pytest.raises(DataError, match=r"ambiguous \(a\+b or t1\+t2\).*folders="):
        PairFolder(tmp_path)
    assert_pair(PairFolder(tmp_path, folders=("spring", "autumn", "truth"))[2], 2)


@pytest.fixture
def same_names(tmp_path: Path) -> Path:
    """Pairs p0 to p2 in each of two split folders, and p3 in the first one."""
    make(tmp_path / "train", n=4)
    make(tmp_path / "test")
    return tmp_path


def test_a_name_that_two_splits_have_is_not_guessed(same_names: Path) -> None:
    first = same_names / "train" / "A" / "p1.png"
    own = PairFolder(same_names, "train", names=["p1.png"])
    assert [files.t1 for files in own.files] == [first]
    for name in ("train/p1", "train/p1.png", "train/A/p1.png"):
        assert PairFolder(same_names, names=[name]).files[0].t1 == first
    with pytest.raises(DataError, match=r"found 'p1' in train, test; write train/p1, or"):
        PairFolder(same_names, names=["p3", "p1"])
    with pytest.raises(DataError, match=r"1 of 1 named pairs do not exist, first 'test/p3'"):
        PairFolder(same_names, names=["test/p3"])
    assert PairFolder(same_names, names=["p3"]).names == ("train/p3",)


@pytest.mark.parametrize("written", ["split.json", "lists"])
def test_a_split_of_several_folders_is_read_as_it_was_written(
    written: str, same_names: Path
) -> None:
    split = Split({"labeled": ("test/p0", "train/p0"), "unlabeled": ("train/p2",)}, "by hand")
    split.write(same_names / written)
    assert read_split(same_names / written).parts == split.parts
    found = PairFolder(same_names, "labeled", split_file=same_names / written)
    assert found.names == ("test/p0", "train/p0")
    paths = [same_names / part / "A" / "p0.png" for part in ("test", "train")]
    assert [files.t1 for files in found.files] == paths


def test_labels_of_pairs_of_one_name_are_told_apart(same_names: Path) -> None:
    names = PairFolder(same_names).names
    labels = {name: int(name.startswith("test/")) for name in names}
    pairs = PairFolder(same_names, keys={"label"}, labels=labels)
    assert labels_of(pairs) == list(labels.values())
    lines = same_names / "labels.txt"
    lines.write_text(format_label_list(labels))
    assert labels_of(PairFolder(same_names, keys={"label"}, labels=lines)) == labels_of(pairs)
    assert labels_of(PairFolder(same_names, "test", keys={"label"}, labels=lines)) == [1, 1, 1]
    bare = {"p0": 1, "p1": 0, "p2": 0, "p3": 0}
    assert labels_of(PairFolder(same_names, "test", keys={"label"}, labels=bare)) == [1, 0, 0]
    with pytest.raises(DataError, match=r"found 'p0' in several splits; write the split before"):
        PairFolder(same_names, keys={"label"}, labels=bare)
    split = Split({"some": ("train/p0", "test/p0")}, "by hand")
    split.write(same_names / "s.json")
    some = PairFolder(
        same_names, "some", split_file=same_names / "s.json", keys={"label"}, labels=labels
    )
    assert labels_of(some) == [0, 1]
    make(same_names / "flat")
    both = {"train/p0": 1, "test/p0": 0}
    with pytest.raises(DataError, match="p0 has both labels; keep one"):
        PairFolder(same_names / "flat", keys={"label"}, labels=both)


def test_names_select_and_order(tmp_path: Path) -> None:
    make(tmp_path)
    assert PairFolder(tmp_path, names=["p2.png", "p0"]).names == ("p2", "p0")
    with pytest.raises(DataError, match=r"1 of 2 named pairs do not exist, first 'q'"):
        PairFolder(tmp_path, names=["p0", "q"])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 2, 4, 13])
def test_any_bands_and_dtypes_as_raw_values(tmp_path: Path, dtype: str, bands: int) -> None:
    t1, t2 = pixels(0, bands, "uint16") // 7, pixels(1, bands, "uint16") // 7
    save(tmp_path / "A" / "x.tif", t1.astype(dtype))
    save(tmp_path / "B" / "x.tif", t2.astype(dtype))
    data = PairFolder(tmp_path)
    assert data.keys == {"image"}
    assert np.array_equal(data[0]["image"], np.stack([t1, t2]).astype(dtype).astype(np.float32))
    chosen = PairFolder(tmp_path, bands=[bands, 1])[0]["image"]
    assert np.array_equal(chosen[0], t1.astype(dtype).astype(np.float32)[[bands - 1, 0]])
    with pytest.raises(DataError, match=f"bands 1 to {bands}"):
        PairFolder(tmp_path, bands=[bands + 1], keys={"image"})[0]


def test_sixteen_bit_png_keeps_its_values(tmp_path: Path) -> None:
    array = pixels(0, 3, "uint16")
    save(tmp_path / "x.png", array)
    assert np.array_equal(read_picture(tmp_path / "x.png").pixels, array)


def georeferenced(path: Path, array: np.ndarray, nodata: float | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)
    write_picture(path, array, rasterio.crs.CRS.from_epsg(32633), grid, nodata)


def test_georeferencing_and_validity(tmp_path: Path) -> None:
    t1, t2 = pixels(0) | 1, pixels(1) | 1
    t1[:, 0, 0] = 0
    t2[:, 1, 1] = 0
    georeferenced(tmp_path / "A" / "x.tif", t1, 0)
    georeferenced(tmp_path / "B" / "x.tif", t2, 0)
    georeferenced(tmp_path / "label" / "x.tif", mask_pixels(0))
    data = PairFolder(tmp_path)
    sample = data[0]
    assert data.keys == {"image", "mask", "valid"}
    assert sample["crs"].to_epsg() == 32633
    assert sample["bounds"] == (500_000, 4_000_000 - H / 2, 500_000 + W / 2, 4_000_000)
    assert sample["transform"] == Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)
    invalid = np.zeros((H, W), bool)
    invalid[0, 0] = invalid[1, 1] = True
    assert sample["valid"].dtype == torch.bool
    assert np.array_equal(~sample["valid"][0].numpy(), invalid)
    assert (sample["mask"][0][torch.from_numpy(invalid)] == 255).all()
    assert sample["mask"][0, 0, 1:].eq(1).all()
    collated, _ = collate([sample, sample])
    assert collated is not None
    assert set(collated) == {
        *data.keys,
        "crs",
        "bounds",
        "transform",
        "name",
    }


@pytest.mark.parametrize("kind", ["B", "label", "vl_change"])
def test_a_file_that_lies_elsewhere_than_t1_is_said(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)
    places = {
        "near": place @ Affine.translation(0.3, 0.3),
        "shifted": place @ Affine.translation(3, 0),
        "upside_down": place @ Affine(1, 0, 0, 0, -1, H),
    }
    for folder, moved in places.items():
        for name, array in (("A", pixels(0)), ("B", pixels(1)), ("label", mask_pixels(0)),
                            ("vl_change", mask_pixels(0, 1))):  # fmt: skip
            for stem in ("x", "y"):
                path = tmp_path / folder / name / f"{stem}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                crs = rasterio.crs.CRS.from_epsg(32633)
                write_picture(path, array, crs, moved if name == kind else place)
        caplog.clear()
        pairs = PairFolder(tmp_path / folder, keys={"image", "mask", "vl_change"})
        for index in (0, 1, 0):
            sample = pairs[index]
        assert np.array_equal(sample["vl_change"][0], mask_pixels(0, 1)[0]), "as stored"
        said = [record.getMessage() for record in caplog.records]
        if folder == "near":
            assert not said
            continue
        (text,) = said
        apart = 3 if folder == "shifted" else H
        assert text.startswith(f"{tmp_path / folder / kind / 'x.tif'}: by its georeferencing it")
        assert f"up to {apart} pixels from t1" in text


@pytest.mark.parametrize(("crs", "said"), [(None, False), (32632, True), (32633, False)])
def test_without_a_crs_a_transform_does_not_tell_where_a_label_lies(
    crs: int | None, said: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place, pixel = Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000), Affine(1, 0, 0, 0, -1, H)
    for name, array in (("A", pixels(0)), ("B", pixels(1)), ("label", mask_pixels(0))):
        (tmp_path / name).mkdir()
        code = crs if name == "label" else 32633
        known = None if code is None else rasterio.crs.CRS.from_epsg(code)
        write_picture(tmp_path / name / "x.tif", array, known, pixel if code is None else place)
    assert PairFolder(tmp_path)[0]["mask"].sum() == W
    assert ("by its georeferencing its CRS is not that of t1" in caplog.text) == said
    assert ("by its georeferencing" in caplog.text) == said


def test_nan_and_alpha_are_invalid(tmp_path: Path) -> None:
    array = pixels(0, 2).astype(np.float32)
    array[1, 3, 3] = np.nan
    save(tmp_path / "A" / "x.tif", array)
    save(tmp_path / "B" / "x.tif", pixels(1, 2).astype(np.float32))
    sample = PairFolder(tmp_path)[0]
    assert not sample["valid"][0, 3, 3]
    assert sample["valid"].sum() == H * W - 1
    assert torch.isfinite(sample["image"]).all()

    rgba = np.full((H, W, 4), 9, np.uint8)
    rgba[0, 0, 3] = 0
    Image.fromarray(rgba, "RGBA").save(tmp_path / "x.png")
    picture = read_picture(tmp_path / "x.png")
    assert picture.pixels.shape == (3, H, W)
    assert picture.valid is not None
    assert picture.valid.sum() == H * W - 1
    named = read_picture(tmp_path / "x.png", [4])
    assert named.valid is None
    assert np.array_equal(named.pixels[0], rgba[:, :, 3])


def test_an_alpha_band_that_is_named_is_data(tmp_path: Path) -> None:
    array = pixels(0, 4)
    profile = {"driver": "GTiff", "height": H, "width": W, "count": 4, "dtype": "uint8"}
    profile["transform"] = Affine(2, 0, 0, 0, -2, 0)
    with rasterio.open(tmp_path / "x.tif", "w", **profile, photometric="rgb", alpha="yes") as out:
        out.write(array)
    hidden, named = read_picture(tmp_path / "x.tif"), read_picture(tmp_path / "x.tif", [1, 2, 3, 4])
    assert hidden.pixels.shape == (3, H, W)
    assert hidden.valid is not None
    assert np.array_equal(hidden.valid, array[3] > 0)
    assert np.array_equal(named.pixels, array)
    assert named.valid is None


def write_label(
    path: Path,
    values: np.ndarray,
    *,
    mask: NDArray[Any] | None = None,
    alpha: NDArray[Any] | None = None,
    **profile: Any,
) -> None:
    """A label as GeoTIFF that may declare what is unlabelled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = [values] if alpha is None else [values, alpha]
    shape = {"driver": "GTiff", "height": H, "width": W, "count": len(bands)} | profile
    shape["crs"] = "EPSG:32633"
    transform = Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", dtype=values.dtype, transform=transform, **shape) as out,
    ):
        if alpha is not None:
            out.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
        out.write(np.stack(bands))
        if mask is not None:
            out.write_mask(mask)


def stored_label(on: int, off: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Stored values, change in row 2, and where there is no label: rows 5 and below."""
    values = np.full((H, W), off, np.uint8)
    values[2] = on
    unlabelled = np.zeros((H, W), bool)
    unlabelled[5:] = True
    return values, unlabelled


@pytest.mark.parametrize("on", [1, 255])
@pytest.mark.parametrize("how", ["nodata", "mask", "alpha", "nan"])
def test_what_a_label_declares_to_be_none_is_ignored(tmp_path: Path, how: str, on: int) -> None:
    georeferenced(tmp_path / "A" / "p0.tif", pixels(0))
    georeferenced(tmp_path / "B" / "p0.tif", pixels(1))
    values, unlabelled = stored_label(on)
    path = tmp_path / "label" / "p0.tif"
    if how == "nodata":
        none = 255 if on == 1 else 127
        write_label(path, np.where(unlabelled, none, values).astype(np.uint8), nodata=none)
    elif how == "mask":
        write_label(path, np.where(unlabelled, 77, values).astype(np.uint8), mask=~unlabelled)
    elif how == "alpha":
        visible = np.where(unlabelled, 0, 255).astype(np.uint8)
        write_label(path, np.where(unlabelled, 77, values).astype(np.uint8), alpha=visible)
    else:
        write_label(path, np.where(unlabelled, np.nan, values).astype(np.float32))
    expected = np.where(unlabelled, 255, values == on)
    for rule in ("strict", "nonzero", {0: 0, on: 1}):
        sample = PairFolder(tmp_path, keys={"mask", "label"}, mask_values=rule)[0]
        np.testing.assert_array_equal(sample["mask"][0], expected)
        assert sample["label"] == 1
    found = info(tmp_path)
    assert found.ok, found.text()
    assert found.parts[0].change_share == W / (5 * W)
    t1, t2 = (str(tmp_path / d / "p0.tif") for d in "AB")
    scenes = ScenePairs(Scene(t1, t2, labels=str(path)))
    np.testing.assert_array_equal(scenes[:, :]["mask"][0], expected)


def test_a_mask_that_rscd_wrote_is_a_label_whose_nodata_is_ignored(tmp_path: Path) -> None:
    make(tmp_path, names=("A", "B"), n=1)
    values = np.zeros((H, W), np.uint8)
    values[5:] = 255
    write_label(tmp_path / "label" / "p0.tif", values, nodata=255)
    sample = PairFolder(tmp_path, keys={"mask", "label"})[0]
    assert sample["label"] == 0
    np.testing.assert_array_equal(sample["mask"][0], values)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_the_alpha_band_of_a_picture_says_where_there_is_a_label(
    tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, names=("A", "B"), n=2)
    values, unlabelled = stored_label(255)
    bands = [np.where(unlabelled, 77, values).astype(np.uint8)] * (len(mode) - 1)
    bands.append(np.where(unlabelled, 0, 255).astype(np.uint8))
    (tmp_path / "label").mkdir()
    for name in ("p0", "p1"):
        Image.fromarray(np.dstack(bands), mode).save(tmp_path / "label" / f"{name}.png")
    expected = np.where(unlabelled, 255, values == 255)
    for rule in ("strict", "nonzero", {0: 0, 255: 1}):
        data = PairFolder(tmp_path, keys={"mask", "label"}, mask_values=rule)
        for sample in (data[0], data[1]):
            np.testing.assert_array_equal(sample["mask"][0], expected)
            assert sample["label"] == 1
    assert caplog.text.count("transparent pixels of labels count as pixels without label") == 1
    opaque = np.dstack([values] * (len(mode) - 1) + [np.full_like(values, 255)])
    Image.fromarray(opaque, mode).save(tmp_path / "label" / "p0.png")
    np.testing.assert_array_equal(PairFolder(tmp_path)[0]["mask"][0], values == 255)


@pytest.mark.parametrize(("hidden", "ignored"), [(0, False), (1, True)])
def test_a_transparent_index_of_a_picture_is_like_a_declared_nodata(
    tmp_path: Path, hidden: int, ignored: bool
) -> None:
    make(tmp_path, names=("A", "B"), n=1)
    values, _ = stored_label(1)
    picture = Image.fromarray(values, "P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    (tmp_path / "label").mkdir()
    picture.save(tmp_path / "label" / "p0.png", transparency=hidden)
    expected = np.where((values == 1) & ignored, 255, values == 1)
    np.testing.assert_array_equal(PairFolder(tmp_path)[0]["mask"][0], expected)


def test_nodata_of_0_is_no_change_and_a_value_named_as_change_is_change(tmp_path: Path) -> None:
    make(tmp_path, names=("A", "B"), n=1)
    values, _ = stored_label(255)
    write_label(tmp_path / "label" / "p0.tif", values, nodata=0)
    np.testing.assert_array_equal(PairFolder(tmp_path)[0]["mask"][0], values == 255)
    write_label(tmp_path / "label" / "p0.tif", values, nodata=255)
    named = PairFolder(tmp_path, mask_values={0: 0, 255: 1})
    np.testing.assert_array_equal(named[0]["mask"][0], values == 255)


@pytest.mark.parametrize(("kind", "folder"), [("t1", "A"), ("t2", "B"), ("mask", "label")])
def test_pairs_without_partner_are_named(tmp_path: Path, kind: str, folder: str) -> None:
    make(tmp_path, n=8)
    (tmp_path / folder / "p3.png").unlink()
    with pytest.raises(DataError, match=rf"pair 'p3' has no {kind} file \(looked in {folder}\)"):
        PairFolder(tmp_path)
    for number in (1, 2, 4, 5, 6):
        (tmp_path / folder / f"p{number}.png").unlink()
    with pytest.raises(DataError, match=r"'p1' has no .*, nor have 'p2', .*'p5' and 1 more"):
        PairFolder(tmp_path)
    if kind == "mask":
        assert len(PairFolder(tmp_path, keys={"image"})) == 8
    assert len(PairFolder(tmp_path, names=["p0", "p7"])) == 2


def test_only_the_keys_asked_for(tmp_path: Path) -> None:
    make(tmp_path)
    for keys in ({"image"}, {"mask"}, {"image", "valid"}, {"mask", "label"}):
        assert set(PairFolder(tmp_path, keys=keys)[0]) == keys | {"name"}


def test_weak_labels_never_open_a_mask(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "train.txt").write_text("p0.png\np1.png\n")
    (tmp_path / "list" / "train_label.txt").write_text("p0.png,0,0,1\np1.png,0,0,0")
    for mask in (tmp_path / "label").iterdir():
        mask.unlink()
    (tmp_path / "label").rmdir()
    data = PairFolder(tmp_path, "train", keys={"image", "label"})
    assert [int(data[i]["label"]) for i in range(2)] == [1, 0]
    assert all(files.mask is None for files in data.files)
    with pytest.raises(DataError, match="has no mask file"):
        PairFolder(tmp_path, "train", keys={"image", "mask"})


def labels_of(pairs: PairFolder) -> list[int]:
    return [int(pairs[index]["label"]) for index in range(len(pairs))]


def test_weak_labels_need_a_list(tmp_path: Path) -> None:
    make(tmp_path / "train")
    with pytest.raises(DataError, match=r"requested without masks.*train_label.txt"):
        PairFolder(tmp_path, "train", keys={"image", "label"})
    given = PairFolder(tmp_path, "train", keys={"label"}, labels={"p0": 1, "p1.png": 0, "p2": 1})
    assert labels_of(given) == [1, 0, 1]
    wrong: Any
    for wrong in (255, "1", -1):
        with pytest.raises(DataError, match=f"labels: expected 0 or 1 for p1, found {wrong!r}"):
            PairFolder(tmp_path, "train", keys={"label"}, labels={"p0": 1, "p1": wrong, "p2": 0})
    with pytest.raises(DataError, match=r"2 of 3 pairs have no label, first 'p1'"):
        PairFolder(tmp_path, "train", keys={"label"}, labels={"p0": 1})


def test_labels_counted_from_masks(tmp_path: Path) -> None:
    make(tmp_path)
    counted = PairFolder(tmp_path, keys={"mask", "label"}, min_change_pixels=W)
    assert labels_of(counted) == [1, 1, 1]
    strict = PairFolder(tmp_path, keys={"mask", "label"}, min_change_pixels=W + 1)
    assert labels_of(strict) == [0, 0, 0]


def test_further_layers(tmp_path: Path) -> None:
    make(tmp_path, ("A", "B"), n=1)
    save(tmp_path / "vl_change" / "p0.png", mask_pixels(0, 1) + 255 * mask_pixels(1, 1))
    save(tmp_path / "pseudo" / "p0.png", mask_pixels(2))
    data = PairFolder(
        tmp_path,
        keys={"image", "vl_change", "pseudo_mask"},
        layers={"pseudo_mask": Layer("pseudo", {0: 0, 255: 1})},
    )
    sample = data[0]
    assert sample["vl_change"].unique().tolist() == [0, 1, 255]
    assert np.array_equal(sample["pseudo_mask"], mask_pixels(2, 1))
    with pytest.raises(DataError, match=r"no p0.png or .tif for the key 'vl_t1'"):
        PairFolder(tmp_path, keys={"vl_t1"})


@pytest.mark.parametrize("layers", [{}, {"vl_change": Layer("vl_change")}], ids=["known", "named"])
def test_layers_hold_255_where_nothing_is_known_even_beside_0_alone(
    layers: dict[str, Layer], tmp_path: Path
) -> None:
    make(tmp_path, ("A", "B"), n=2)
    save(tmp_path / "vl_change" / "p0.png", mask_pixels(0, 255))
    save(tmp_path / "vl_change" / "p1.png", mask_pixels(0, 1) + 255 * mask_pixels(1, 1))
    data = PairFolder(tmp_path, keys={"vl_change"}, layers=layers)
    found = [data[i]["vl_change"].unique().tolist() for i in (1, 0, 1)]
    assert found == [[0, 1, 255], [0, 255], [0, 1, 255]]


@pytest.mark.parametrize("with_change", [False, True])
def test_layers_in_which_255_may_mean_change_are_named(
    with_change: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    count = images.FILES_WITHOUT_CHANGE
    make(tmp_path, ("A", "B"), n=count + 1)
    for i in range(count + 1):
        save(tmp_path / "pseudo" / f"p{i}.png", mask_pixels(i, 255))
    if with_change:
        save(tmp_path / "pseudo" / "p3.png", mask_pixels(3, 1))
    data = PairFolder(tmp_path, keys={"pseudo"})
    for _ in range(2):
        for i in range(count - 1):
            assert data[i]["pseudo"].numel()
    assert "255" not in caplog.text
    for i in range(count + 1):
        assert data[i]["pseudo"].numel()
    said = f"none of the {count} files that hold it holds 1; if it means change, give the values"
    assert caplog.text.count(said) == (not with_change)


def test_loads_in_workers(tmp_path: Path) -> None:
    make(tmp_path, n=4)
    loader = DataLoader(PairFolder(tmp_path), batch_size=2, num_workers=1, collate_fn=collate)
    batches = [unpack(batch) for batch, _ in loader]
    assert [batch["image"].shape for batch in batches] == [(2, 2, 3, H, W)] * 2
    assert batches[1]["name"] == ["p2", "p3"]


def test_transforms_are_applied(tmp_path: Path) -> None:
    make(tmp_path, n=1)
    data = PairFolder(tmp_path, transforms=lambda s: s | {"image": s["image"] + 1})
    assert np.array_equal(data[0]["image"][0], pixels(0).astype(np.float32) + 1)


def test_damaged_and_mismatched_files_are_named(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "A" / "p0.png"
    whole = path.read_bytes()
    for broken in (whole[:-20], b"", b"not an image"):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"p0\.png: cannot be read"):
            PairFolder(tmp_path, keys={"image"})[0]
    save(tmp_path / "B" / "p1.png", pixels(3)[:, :-1])
    with pytest.raises(DataError, match=r"p1\.png: \(bands, height, width\) is \(3, 11, 10\)"):
        PairFolder(tmp_path, keys={"image"})[1]
    save(tmp_path / "label" / "p2.png", mask_pixels(0)[:, 1:])
    with pytest.raises(DataError, match=r"p2\.png: the mask is 11 x 10 .* images are 12 x 10"):
        PairFolder(tmp_path, keys={"image", "mask"})[2]
    (tmp_path / "A" / "p2.png").unlink()
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "train.txt").write_text("p2.png\n")
    with pytest.raises(DataError, match=r"'p2' has no t1 file"):
        PairFolder(tmp_path, "train", keys={"image"})


def test_missing_datasets_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: expected a dataset folder, found nothing"):
        PairFolder(tmp_path / "nowhere")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match=r"searched for A/ B/ label/.*train/.*found pictures/"):
        PairFolder(tmp_path)
    for name in ("A", "B"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="holds no pairs"):
        PairFolder(tmp_path)


def test_one_name_in_two_formats(tmp_path: Path) -> None:
    make(tmp_path)
    save(tmp_path / "A" / "p0.tif", pixels(0))
    with pytest.raises(DataError, match=r"one file of each name, found p0\.png and p0\.tif"):
        PairFolder(tmp_path)


def test_colour_palette_and_bilevel_labels(tmp_path: Path) -> None:
    on = mask_pixels(1)[0] > 0
    Image.fromarray(np.dstack([on * np.uint8(255)] * 3)).save(tmp_path / "rgb.png")
    Image.fromarray(on).save(tmp_path / "bit.png")
    palette = Image.fromarray(on.astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(tmp_path / "palette.png")
    for name in ("rgb", "bit", "palette"):
        assert np.array_equal(read_mask(tmp_path / f"{name}.png"), on)
    save(tmp_path / "colour.png", pixels(0))
    with pytest.raises(DataError, match=r"colour\.png: expected a label with one band"):
        read_label_values(tmp_path / "colour.png")


def test_plot_shows_both_dates_and_the_mask(tmp_path: Path) -> None:
    make(tmp_path, n=1)
    data = PairFolder(tmp_path)
    figure = data.plot(data[0])
    assert [axis.get_title() for axis in figure.axes] == ["t1", "t2", "mask"]
    shown = figure.axes[0].images[0].get_array()
    assert shown is not None
    assert np.allclose(shown, np.moveaxis(pixels(0), 0, 2) / 255, atol=1e-6)


@pytest.mark.golden
def test_published_masks(golden: Any) -> None:
    cases = golden.files("kdmsi/dataset_*.npz")
    assert cases
    for case in cases:
        with np.load(case, allow_pickle=False) as arrays:
            for i in range(len(arrays["mask_uint8"])):
                rule = coding_of("it", "reference", None).decode(arrays["mask_uint8"][i])
                assert np.array_equal(rule, arrays["mask_tensor"][i])


@pytest.mark.realdata
def test_real_folders(realdata: Path) -> None:
    known: dict[str, int] = {}
    rows = (realdata / "index.csv").read_text().splitlines()
    for row in rows[1:]:
        dataset, split, *_ = row.split(",")
        known[f"{dataset}:{split}"] = known.get(f"{dataset}:{split}", 0) + 1
    for key, count in known.items():
        dataset, split = key.split(":")
        if dataset.startswith(("street", "unlabelled", "geotiff")) or split not in (
            "train",
            "test",
        ):
            continue
        data = PairFolder(realdata / dataset, split)
        assert len(data) == count, key
        sample = data[0]
        assert set(sample["mask"].unique().tolist()) <= {0, 1}
        assert sample["image"].shape[-2:] == sample["mask"].shape[-2:]


def test_masks_are_taken_from_where_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, values in (("A", 7), ("B", 9)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 4, 3), values, np.uint8)).save(tmp_path / name / "x.png")
    (tmp_path / "label").mkdir()
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "label" / "x.png")
    (tmp_path / "pseudo").mkdir()
    pseudo = np.zeros((4, 4), np.uint8)
    pseudo[0], pseudo[1] = 1, 255
    Image.fromarray(pseudo).save(tmp_path / "pseudo" / "x.png")
    for source in (None, "true"):
        assert int(PairFolder(tmp_path, mask_from=source)[0]["mask"].sum()) == 16
    found = PairFolder(tmp_path, mask_from="pseudo")
    assert found[0]["mask"][0, :, 0].tolist() == [1, 255, 0, 0]
    assert found.eight_bit
    (tmp_path / "label" / "x.png").unlink()
    assert len(PairFolder(tmp_path, keys={"image", "mask"}, mask_from="pseudo")) == 1
    with pytest.raises(DataError, match=r"no x\.png or \.tif for the key 'other'"):
        PairFolder(tmp_path, mask_from="other")
    # as -o of rscd pseudolabel names it: from the working directory
    (tmp_path / "work").mkdir()
    (tmp_path / "pseudo").rename(tmp_path / "work" / "masks")
    monkeypatch.chdir(tmp_path / "work")
    for named in ("masks", "./masks", str(tmp_path / "work" / "masks")):
        assert PairFolder(tmp_path, mask_from=named)[0]["mask"][0, :, 0].tolist() == [1, 255, 0, 0]
