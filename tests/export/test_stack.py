"""A stack holds what a pair is read as: values, masks, names; wherever it is moved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray

from rscd.cli import main
from rscd.geo.scene import ScenePair
from rscd.geo.source import close_handles
from rscd.geo.tiles import Box
from rscd.geo.vrt import vrt

T1 = Affine(10, 0, 500_000, 0, -10, 5_000_000)
KINDS: dict[str, dict[str, Any]] = {
    "one grid": {},
    "cropped": {"t2": {"transform": Affine(10, 0, 500_050, 0, -10, 4_999_930)}},
    "resampled": {"t2": {"transform": Affine(7.5, 0, 500_033, 0, -7.5, 4_999_930)}},
    "rotated": {"t2": {"transform": Affine(7.5, 2.7, 500_200, 2.7, -7.5, 4_999_800)}},
    "another CRS": {
        "t2": {"crs": "EPSG:32632", "transform": Affine(10, 0, 971_600, 0, -10, 5_017_560)}
    },
    "nodata": {"t1": {"nodata": 7}, "t2": {"nodata": 9}},
    "resampled nodata": {"t2": {"nodata": 9, "transform": Affine(9, 0, 500_000, 0, -9, 5_000_000)}},
    "masks": {"t1": {"mask": True}, "t2": {"mask": True}},
    "alpha": {"t1": {"alpha": True}, "t2": {"mask": True}},
    "mask and nodata": {"t1": {"mask": True}, "t2": {"nodata": 9}},
    "types": {"t2": {"dtype": "uint16"}},
    "32 bits": {"t1": {"dtype": "int32"}},
    "no place": {"t1": {"crs": None, "transform": None}, "t2": {"crs": None, "transform": None}},
}  # fmt: skip


def make(
    folder: Path,
    write_tif: Callable[..., Path],
    t1: dict[str, Any] | None = None,
    t2: dict[str, Any] | None = None,
) -> tuple[str, str]:
    generator = np.random.default_rng(0)
    for name, given in (("t1", t1), ("t2", t2)):
        how = dict(given or {})
        values = generator.integers(10, 200, (3, 72, 80)).astype(how.pop("dtype", "uint8"))
        values[:, 20:30, 5:25] = how.get("nodata", 100)
        if how.pop("mask", False):
            how["mask"] = generator.random((72, 80)) < 0.9
        if how.get("alpha"):
            values = np.concatenate([values, (generator.random((1, 72, 80)) < 0.9) * 255])
            values = values.astype("uint8")
        write_tif(folder / f"{name}.tif", values, **how)
    return str(folder / "t1.tif"), str(folder / "t2.tif")


def contents(path: Path) -> tuple[Any, ...]:
    with rasterio.open(path) as dataset:
        masks = dataset.read_masks()
        return dataset.read(), masks, dataset.transform, dataset.crs, dataset.descriptions


def pair_of(t1: str, t2: str) -> tuple[ScenePair, NDArray[Any], NDArray[Any]]:
    pair = ScenePair.open(t1, t2)
    image, valid = pair.read(Box(0, 0, *pair.shape_hw))
    close_handles()
    return pair, image.reshape(-1, *pair.shape_hw), valid


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("suffix", [".vrt", ".tif"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_holds_what_the_pair_is_read_as(
    tmp_path: Path, write_tif: Callable[..., Path], kind: str, suffix: str
) -> None:
    t1, t2 = make(tmp_path, write_tif, **KINDS[kind])
    pair, image, valid = pair_of(t1, t2)
    assert valid.any()
    out = tmp_path / f"stack{suffix}"
    assert main(["stack", "-q", t1, t2, "-o", str(out)]) == 0
    values, masks, transform, crs, names = contents(out)
    assert values.shape == image.shape
    np.testing.assert_array_equal(values[:, valid], image[:, valid])
    assert transform.almost_equals(pair.grid.affine)
    assert crs == pair.grid.crs
    assert [name[:3] for name in names] == ["t1 "] * 3 + ["t2 "] * 3
    if suffix == ".tif":
        np.testing.assert_array_equal(masks, np.broadcast_to(valid, masks.shape) * 255)
        assert not values[:, ~valid].any()
        assert values.dtype == {"types": "uint16", "32 bits": "float32"}.get(kind, "uint8")
    elif kind in ("nodata", "mask and nodata"):  # a file's nodata value stays that of its bands
        with rasterio.open(out) as dataset:
            assert dataset.nodatavals[3:] == (9,) * 3
    else:
        np.testing.assert_array_equal(masks[0] != 0, valid)


@pytest.mark.parametrize("kind", ["one grid", "cropped", "resampled", "masks"])
def test_a_vrt_moves_with_its_rasters(
    tmp_path: Path, write_tif: Callable[..., Path], kind: str
) -> None:
    here = tmp_path / "here"
    (here / "data").mkdir(parents=True)
    (here / "out").mkdir()
    t1, t2 = make(here / "data", write_tif, **KINDS[kind])
    _, image, valid = pair_of(t1, t2)
    assert main(["stack", "-q", t1, t2, "-o", str(here / "out" / "stack.vrt")]) == 0
    here.rename(tmp_path / "there")
    values, *_ = contents(tmp_path / "there" / "out" / "stack.vrt")
    np.testing.assert_array_equal(values[:, valid], image[:, valid])
    bands = ElementTree.parse(tmp_path / "there/out/stack.vrt").findall("VRTRasterBand")
    assert [band.get("band") for band in bands] == list("123456"), "GDAL warns of other numbers"
    made = sorted(path.name for path in (tmp_path / "there" / "out").iterdir())
    assert made == ["stack.t2.vrt", "stack.vrt"][kind != "resampled" :]


def test_nodata_stays_where_units_are_converted(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    generator = np.random.default_rng(0)
    for name, offset in (("t1", 0.0), ("t2", -0.1)):
        pixels = generator.integers(1, 999, (2, 40, 40)).astype("uint16")
        pixels[:, 5:9] = 0
        path = write_tif(tmp_path / f"{name}.tif", pixels, nodata=0)
        with rasterio.open(path, "r+") as dataset:
            dataset.scales, dataset.offsets = (1e-4,) * 2, (offset,) * 2
    t1, t2 = (str(tmp_path / f"{name}.tif") for name in ("t1", "t2"))
    _, _, valid = pair_of(t1, t2)
    assert not valid[5:9].any()
    assert main(["stack", "-q", t1, t2, "-o", str(tmp_path / "s.vrt")]) == 0
    masks = contents(tmp_path / "s.vrt")[1]
    np.testing.assert_array_equal(masks != 0, np.broadcast_to(valid, masks.shape))


def test_bands_colours_and_units_are_those_that_predict_reads(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    generator = np.random.default_rng(0)
    for name, offset in (("t1", 0.0), ("t2", -0.1)):
        path = write_tif(
            tmp_path / f"{name}.tif", generator.integers(1, 999, (4, 40, 40)).astype("uint16")
        )
        with rasterio.open(path, "r+") as dataset:
            dataset.scales, dataset.offsets = (1e-4,) * 4, (offset,) * 4
            dataset.colorinterp = [
                rasterio.enums.ColorInterp[c] for c in ("blue", "green", "red", "nir")
            ]
    t1, t2 = (str(tmp_path / f"{name}.tif") for name in ("t1", "t2"))
    _, image, _ = pair_of(t1, t2)
    for suffix in (".vrt", ".tif"):
        out = tmp_path / f"stack{suffix}"
        assert main(["stack", "-q", t1, t2, "-o", str(out)]) == 0
        values, _, _, _, names = contents(out)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, image)
        assert names[:5] == ("t1 red", "t1 green", "t1 blue", "t1 nir", "t2 red")
    out = tmp_path / "two.vrt"
    assert main(["stack", "-q", t1, t2, "-b", "nir,red", "-o", str(out)]) == 0
    assert contents(out)[4] == ("t1 nir", "t1 red", "t2 nir", "t2 red")


def test_names_are_relative_and_only_where_they_can_be(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    t1, t2 = make(tmp_path, write_tif, **KINDS["resampled"])
    assert main(["stack", "-q", t1, t2, "-o", str(tmp_path / "stack.vrt")]) == 0
    named = {
        element.text
        for path in (tmp_path / "stack.vrt", tmp_path / "stack.t2.vrt")
        for element in ElementTree.parse(path).iter()
        if element.get("relativeToVRT") is not None
    }
    assert named == {"t1.tif", "t2.tif", "stack.t2.vrt"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["-o", "{}/stack.png"], "expected a stack ending in .vrt or .tif, found"),
        (["-o", "{}/t1.tif", "--overwrite"], "found the input"),
        (["-o", "{}/there.vrt"], "expected a new file, found"),
        (["-o", "{}/stack.vrt", "-b", "9"], "expected band numbers from 1 to 3"),
        (["-o", "{}/stack.vrt", "--align", "none"], "expected one grid with --align none"),
        (["-o", "{}/no/stack.vrt"], "expected a folder for"),
    ],
)
def test_what_is_wrong_is_one_line_and_no_file(
    tmp_path: Path,
    write_tif: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    said: str,
) -> None:
    t1, t2 = make(tmp_path, write_tif, **KINDS["resampled"])
    (tmp_path / "there.vrt").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(["stack", t1, t2, *(word.format(tmp_path) for word in more)]) != 0
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_vrt_that_differs_from_the_pair_is_not_kept(
    tmp_path: Path,
    write_tif: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    t1, t2 = make(tmp_path, write_tif)
    import rscd.export.stack as stack

    monkeypatch.setattr(
        stack, "vrt", lambda *a, **k: vrt(*a, **k).replace("<SourceBand>2", "<SourceBand>1")
    )
    assert main(["stack", "-q", t1, t2, "-o", str(tmp_path / "stack.vrt")]) == 1
    assert "read-back mismatch in pixels" in capsys.readouterr().err
    assert not Path(tmp_path / "stack.vrt").exists()
