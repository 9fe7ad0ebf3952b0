"""``rscd predict`` from the outside: arguments in; files, two streams and an exit code out."""

import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import warnings
from collections import namedtuple
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from rasterio.vrt import WarpedVRT
from scipy.ndimage import uniform_filter

import rscd
from rscd.cli import main
from rscd.export.preview import OUTLINE_RGB

UTM = Affine(10, 0, 500_000, 0, -10, 5_000_000)
CHANGED = slice(30, 50), slice(40, 70)


def images(shape: tuple[int, int] = (90, 120), bands: int = 3) -> Iterator[Any]:
    rng = np.random.default_rng(0)
    fields = uniform_filter(rng.random((bands, *shape)) * 255, (0, 9, 9)) * 2 % 200
    t1, t2 = (fields + rng.normal(0, 3, fields.shape) for _ in range(2))
    t2[:, CHANGED[0], CHANGED[1]] += 120
    return (np.clip(date, 1, 255).astype(np.uint8) for date in (t1, t2))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, write_tif: Callable[..., Path]) -> list[str]:
    folder = tmp_path_factory.mktemp("scene")
    t1, t2 = images()
    return [str(write_tif(folder / "t1.tif", t1)), str(write_tif(folder / "t2.tif", t2))]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The same without georeferencing."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for name, pixels in zip(("t1.png", "t2.png"), images(), strict=True):
        profile = {"driver": "PNG", "height": 90, "width": 120, "count": 3, "dtype": "uint8"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(folder / name, "w", **profile) as dataset:
                dataset.write(pixels)
        paths.append(str(folder / name))
    return paths


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a command in this process."""
    try:
        code: Any = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    return code, *capsys.readouterr()


def refused(
    capsys: pytest.CaptureFixture[str], folder: Path, code: int, pattern: str, *arguments: Any
) -> None:
    """The command fails in one clear line and leaves nothing in the folder."""
    before = sorted(folder.iterdir())
    got, out, err = run(capsys, *arguments, "-q")
    assert (got, out) == (code, "")
    assert re.fullmatch(rf"rscd: {pattern}\n", err), err
    assert sorted(folder.iterdir()) == before


def in_process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from rscd.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class TestResults:
    @pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".fgb", ".parquet"])
    def test_polygons_lie_where_the_change_is(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
    ) -> None:
        path = tmp_path / f"change{suffix}"
        code, out, _ = run(capsys, "predict", *scene, "-o", path, "--min-area", 5000)
        assert (code, out) == (0, f"{path}\n")
        read = geopandas.read_parquet if suffix == ".parquet" else geopandas.read_file
        frame = read(path).to_crs("EPSG:32633")
        expected = shapely.box(500_400, 4_999_500, 500_700, 4_999_700)
        overlap = shapely.intersection(frame.geometry.union_all(), expected).area
        assert overlap > 0.9 * expected.area
        assert frame.geometry.area.sum() < 1.3 * expected.area
        columns = ["id", "kind", "class", "score", "area_m2", "t1", "t2", "model", "geometry"]
        assert list(frame.columns) == columns
        assert set(frame["model"]) == {"irmad"}
        # UTM is 0.04 % too small here
        np.testing.assert_allclose(frame["area_m2"], frame.geometry.area, rtol=2e-3)

    @pytest.mark.parametrize("suffix", [".tif", ".TIFF"])
    def test_masks_and_probabilities(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
    ) -> None:
        mask_path, prob_path = tmp_path / f"change{suffix}", tmp_path / "prob.tif"
        code, out, _ = run(capsys, "predict", *scene, "-o", mask_path, "--prob", prob_path)
        assert (code, out) == (0, f"{mask_path}\n{prob_path}\n")
        with rasterio.open(mask_path) as dataset:
            mask = dataset.read(1)
            assert dataset.transform == UTM
        with rasterio.open(prob_path) as dataset:
            prob = dataset.read(1)
        np.testing.assert_array_equal(mask, prob >= 0.5)
        assert mask[CHANGED].mean() > 0.9

    def test_all_outputs_at_once_and_nothing_else(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        names = ("a.geojson", "b.gpkg", "c.fgb", "d.parquet", "e.tif")
        outputs = [option for name in names for option in ("-o", tmp_path / name)]
        extra = ["--prob", tmp_path / "p.tif", "--preview", tmp_path / "look.png"]
        code, out, _ = run(capsys, "predict", *scene, *outputs, *extra, "-m", "cva")
        assert code == 0
        made = [str(tmp_path / name) for name in (*names, "p.tif", "look.png")]
        assert out.splitlines() == made
        sidecars = {"a.geojson.json", "c.fgb.json", *(f"{stem}.qml" for stem in "acdep")}
        assert {path.name for path in tmp_path.iterdir()} == sidecars | {
            *names,
            "p.tif",
            "look.png",
        }

    def test_the_picture_outlines_what_the_polygons_are(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def outlined(*options: Any) -> set[Any]:
            picture = tmp_path / "look.png"
            arguments = (*scene, "--preview", picture, "-m", "cva", "--overwrite", *options)
            assert run(capsys, "predict", *arguments)[0] == 0
            shown = cv2.imread(str(picture))
            assert shown is not None
            image = shown[:, :, ::-1].astype(int)
            rows, cols = np.nonzero((np.abs(image - OUTLINE_RGB) < 3).all(axis=2))
            panel = (image.shape[1] + 8) // 3
            return {(row, col - 2 * panel) for row, col in zip(rows, cols, strict=True)}

        mask = outlined("-o", tmp_path / "a.tif")
        polygons = outlined("-o", tmp_path / "a.geojson")
        assert mask
        top, left = (part.start for part in CHANGED)
        bottom, right = (part.stop - 1 for part in CHANGED)
        corners = {(top, left), (top, right), (bottom, left), (bottom, right)}
        for found in (mask, polygons):
            assert all(min(np.hypot(r - a, c - b) for r, c in found) <= 3 for a, b in corners)
        assert not outlined("-o", tmp_path / "a.geojson", "--min-area", 1e9)

    def test_nodata_is_never_change(
        self, tmp_path: Path, write_tif: Callable[..., Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        t1, t2 = images()
        t2[:, :30] = 0
        paths = [write_tif(tmp_path / "t1.tif", t1), write_tif(tmp_path / "t2.tif", t2, nodata=0)]
        assert (
            run(capsys, "predict", *paths, "-o", tmp_path / "a.tif", "-o", tmp_path / "a.gpkg")[0]
            == 0
        )
        with rasterio.open(tmp_path / "a.tif") as dataset:
            np.testing.assert_array_equal((dataset.read(1) == 255)[:30], True)
            assert (dataset.read(1) == 255).sum() == 30 * 120
        empty = shapely.box(500_000, 4_999_700, 501_200, 5_000_000)
        assert (
            shapely.intersection(geopandas.read_file(tmp_path / "a.gpkg").union_all(), empty).area
            == 0
        )

    def test_nothing_changed_is_an_empty_layer(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "a.gpkg"
        assert run(capsys, "predict", scene[0], scene[0], "-o", path, "-m", "cva")[0] == 0
        frame = geopandas.read_file(path)
        assert len(frame) == 0
        assert "area_m2" in frame
        assert frame.crs.to_epsg() == 32633

    def test_json_is_one_object(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "a.gpkg"
        code, out, _ = run(capsys, "predict", *scene, "-o", path, "--json", "-q")
        assert code == 0
        found = json.loads(out)
        assert found["outputs"] == [str(path)]
        assert found["model"] == "irmad"
        assert found["n_polygons"] == len(geopandas.read_file(path))
        assert found["valid_pixels"] == 90 * 120
        assert found["changed_share"] == pytest.approx(found["changed_pixels"] / 10_800)
        assert 500 * 100 < found["area_m2"] < 800 * 100
        assert {"threshold", "alignment", "seconds"} <= found.keys()

    def test_a_dry_run_writes_nothing(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["predict", *scene, "-o", tmp_path / "a.gpkg", "--dry-run"]
        code, out, _ = run(capsys, *arguments)
        assert code == 0
        assert "model: irmad" in out
        assert json.loads(run(capsys, *arguments, "--json")[1])["size"] == [120, 90]
        assert list(tmp_path.iterdir()) == []

    def test_a_dry_run_refuses_what_a_run_would(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for output, said in (
            (tmp_path / "a.shp", "ending in one of"),
            (scene[0], "the input"),
        ):
            code, _, err = run(capsys, "predict", *scene, "-o", output, "--dry-run")
            assert code
            assert re.search(said, err)

    def test_the_alignment_is_said_and_kept(
        self,
        scene: list[str],
        tmp_path: Path,
        write_tif: Callable[..., Path],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        t2 = write_tif(
            tmp_path / "t2.tif", next(images()), transform=Affine(9, 0, 500_003, 0, -9, 4_999_998)
        )
        path = tmp_path / "a.tif"
        code, _, err = run(capsys, "predict", scene[0], t2, "-o", path)
        assert code == 0
        assert "resampled (bilinear) from 120 x 90 px of 9 m" in err
        with rasterio.open(path) as dataset:
            provenance = json.loads(dataset.tags()["rscd_provenance"])
        assert "resampled" in provenance["alignment"]["t2"]
        assert len(provenance["t1"]["sha256"]) == 64

    def test_one_file_for_both_dates_is_said(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, _, err = run(capsys, "predict", scene[0], scene[0], "-o", tmp_path / "a.tif")
        assert code == 0
        assert err.startswith(f"t1 and t2 are one file, {scene[0]}: nothing can have changed\n")

    def test_quiet_is_quiet(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(capsys, "predict", *scene, "-o", tmp_path / "a.tif", "-q")[2] == ""

    def test_dates_reach_the_columns(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        dates = ["--t1-date", "2019-07-14", "--t2-date", "2023-05-02T10:11:12"]
        assert run(capsys, "predict", *scene, "-o", tmp_path / "a.gpkg", *dates)[0] == 0
        frame = geopandas.read_file(tmp_path / "a.gpkg")
        assert set(frame["t1"].astype(str)) == {"2019-07-14"}

    def test_dates_of_the_files_are_taken(
        self, tmp_path: Path, write_tif: Callable[..., Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        paths = []
        for name, pixels, tag in zip(
            ("a", "b"), images(), ("2019:07:14 10:11:12", "2023:05:02 00:00:00"), strict=True
        ):
            paths.append(write_tif(tmp_path / f"{name}.tif", pixels))
            with rasterio.open(paths[-1], "r+") as dataset:
                dataset.update_tags(TIFFTAG_DATETIME=tag)
        out = tmp_path / "a.gpkg"
        code, _, err = run(capsys, "predict", *paths, "-o", out, "-m", "cva")
        assert code == 0
        assert "dates read from the images: t1 2019-07-14, t2 2023-05-02\n" in err
        frame = geopandas.read_file(out)
        assert set(frame["t1"].astype(str)) == {"2019-07-14"}
        assert set(frame["t2"].astype(str)) == {"2023-05-02"}
        again = ["-o", out, "-m", "cva", "--overwrite", "--t1-date", "2020-02-03"]
        assert run(capsys, "predict", *paths, *again)[0] == 0
        assert set(geopandas.read_file(out)["t1"].astype(str)) == {"2020-02-03"}
        for extra in ([], ["--dry-run"]):
            code, _, err = run(capsys, "predict", *paths[::-1], *again[:-2], *extra)
            assert code == 2
            assert re.search("found 2023-05-02 .its TIFFTAG_DATETIME. and 2019-07-14", err)
        given = ["--t1-date", "2019-01-01", "--t2-date", "2020-01-01"]
        assert run(capsys, "predict", *paths[::-1], *again[:-2], *given)[0] == 0

    def test_a_tag_that_is_no_date_is_said_once(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        t1, t2 = scene[0], shutil.copy(scene[1], tmp_path / "t2.tif")
        with rasterio.open(t2, "r+") as dataset:
            dataset.update_tags(TIFFTAG_DATETIME="2020:13:45 00:00:00")
        line = ["predict", t1, t2, "-m", "cva", "-o", tmp_path / "a.gpkg"]
        code, _, err = run(capsys, *line)
        assert code == 0
        assert err.count("t2.tif: its TIFFTAG_DATETIME '2020:13:45 00:00:00' is no date") == 1
        assert geopandas.read_file(tmp_path / "a.gpkg")["t2"].isna().all()
        code, _, err = run(capsys, *line, "--overwrite", "--t2-date", "2020-12-15")
        assert code == 0
        assert "is no date" not in err

    def test_an_area_of_interest(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        box = ["--bbox", "500300,4999400,500800,4999800"]
        assert run(capsys, "predict", *scene, "-o", tmp_path / "a.tif", *box)[0] == 0
        with rasterio.open(tmp_path / "a.tif") as dataset:
            assert dataset.bounds == (500_300, 4_999_400, 500_800, 4_999_800)
        circle = shapely.Point(500_550, 4_999_600).buffer(150)
        frame = geopandas.GeoDataFrame(geometry=[circle], crs="EPSG:32633").to_crs("EPSG:4326")
        frame.to_file(tmp_path / "aoi.geojson")
        aoi = ["--aoi", tmp_path / "aoi.geojson"]
        assert run(capsys, "predict", *scene, "-o", tmp_path / "b.tif", *aoi, "-m", "cva")[0] == 0
        with rasterio.open(tmp_path / "b.tif") as dataset:
            share = (dataset.read(1) != 255).mean()
        assert share == pytest.approx(np.pi / 4, abs=0.02)

    def test_overwriting_must_be_asked_for(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "a.gpkg"
        path.write_text("mine")
        refused(
            capsys,
            tmp_path,
            1,
            rf"expected a new file, found {path} .* add --overwrite",
            "predict",
            *scene,
            "-o",
            path,
        )
        assert path.read_text() == "mine"
        assert run(capsys, "predict", *scene, "-o", path, "--overwrite")[0] == 0
        assert len(geopandas.read_file(path)) > 0

    def test_creation_and_layer_options(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, _, _ = run(
            capsys,
            "predict",
            *scene,
            "-o",
            tmp_path / "a.tif",
            "-o",
            tmp_path / "a.gpkg",
            "--co",
            "compress=LZW",
            "--lco",
            "FID=number",
        )
        assert code == 0
        with rasterio.open(tmp_path / "a.tif") as dataset:
            assert dataset.compression.name == "lzw"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
class TestPictures:
    def test_a_mask_in_pixels(
        self, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert (
            run(capsys, "predict", *pictures, "-o", tmp_path / "a.tif", "-m", "irmad", "-q")[0] == 0
        )
        with rasterio.open(tmp_path / "a.tif") as dataset:
            assert dataset.read(1)[CHANGED].mean() > 0.9

    def test_polygons_only_when_asked_for(
        self, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["predict", *pictures, "-o", tmp_path / "a.geojson", "-m", "irmad"]
        refused(
            capsys, tmp_path, 2, r"expected images with a CRS .* --pixel-coordinates .*", *arguments
        )
        code, out, _ = run(capsys, *arguments, "--pixel-coordinates", "--gsd", "0.5", "--json")
        assert code == 0
        assert 500 / 4 < json.loads(out)["area_m2"] < 800 / 4
        features = json.loads((tmp_path / "a.geojson").read_text())["features"]
        largest = max(features, key=lambda f: f["properties"]["area_m2"])
        left, top, right, bottom = shapely.geometry.shape(largest["geometry"]).bounds
        assert (left, top, right, bottom) == pytest.approx((40, -50, 70, -30), abs=3)

    def test_square_metres_need_a_pixel_size(
        self, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        refused(
            capsys,
            tmp_path,
            2,
            r"expected a pixel size for --min-area.* --gsd METRES.*",
            "predict",
            *pictures,
            "-o",
            tmp_path / "a.tif",
            "--min-area",
            5,
        )


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "pattern"),
        [
            (
                ["-o", "{}/a.shp"],
                r"expected an output ending in one of .*\.gpkg.*a\.shp; choose one, such as .gpkg",
            ),
            (["-o", "{}/a"], "expected an output ending in one of .*"),
            (["--threshold", "1.5"], "expected --threshold auto or a number from 0 to 1.*"),
            (["--threshold", "high"], "expected --threshold auto or a number from 0 to 1.*"),
            (["--threshold", "nan"], "expected --threshold auto or a number from 0 to 1.*"),
            (
                ["--t2-date", "2020"],
                "expected an ISO date .* for --t2-date, found the year.*",
            ),
            (
                ["--t1-date", "2023-01-01", "--t2-date", "2019-01-01"],
                "expected t1 no later than t2.*",
            ),
            (["-b", "0"], "expected band numbers such as 1,2,3, found '0'.*"),
            (["--bbox", "1,2,3"], "expected --bbox xmin,ymin,xmax,ymax, found '1,2,3'.*"),
            (["--bbox", "1,2,3,4", "--aoi", "a.gpkg"], "expected one of --bbox and --aoi.*"),
            (["--t1-date", "14.7.2019"], "expected an ISO date such as 2019-07-14.*"),
            (["--max-memory", "lots"], "expected a memory size such as 2GB.*"),
            (["--max-memory", "1MB"], r"expected --max-memory of at least \d+MB .*"),
            (["--co", "COMPRESS"], "expected --co NAME=VALUE, found 'COMPRESS'.*"),
            (["-o", "{}/a.tif", "--co", "COMPRESS=NONE3"], ".*correct --co.*"),
            (["--lco", "NO_SUCH_OPTION=1"], ".*correct --lco.*"),
            (["--prob", "{}/p.png"], r"expected a .*\.tif.* for --prob.*"),
            (["--prob", "{}/a.gpkg"], r"expected a .*\.tif.* for --prob.*"),
            (["-o", "{}/a.gpkg"], "expected different output files.*"),
            (["-o", ""], "expected a file name for each output, found an empty one.*"),
            (["--bbox-crs", "EPSG:4326"], "expected --bbox with --bbox-crs, found none.*"),
            (["--gsd", "0.5"], "expected --gsd only with images without georef.* of 10 m .*"),
        ],
    )
    def test_wrong_usage_ends_with_2(
        self,
        scene: list[str],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        options: list[str],
        pattern: str,
    ) -> None:
        options = [option.format(tmp_path) for option in options]
        refused(
            capsys, tmp_path, 2, pattern, "predict", *scene, "-o", tmp_path / "a.gpkg", *options
        )

    @pytest.mark.parametrize(
        "options",
        [
            ["--tile-size", "0"],
            ["--workers", "-1"],
            ["--min-area", "-3"],
            ["--min-score", "1.5"],
            ["--gsd", "nan"],
            ["--align", "t3"],
            ["--device", "tpu"],
            ["--no-such-option"],
            ["--gamma", "0.5"],
            ["--so", "model=a"],
            ["-q", "-v"],
        ],
    )
    def test_arguments_that_cannot_be_parsed_end_with_2(
        self,
        scene: list[str],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        options: list[str],
    ) -> None:
        code, out, err = run(capsys, "predict", *scene, "-o", tmp_path / "a.gpkg", *options)
        assert (code, out) == (2, "")
        assert re.fullmatch(r"rscd: .*; see rscd( predict)? --help\n", err)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("options", "pattern"),
        [
            (["-m", "nonsense"], "expected a model among .*irmad.* found 'nonsense'.*"),
            (["-m", "none.safetensors"], "expected .*none.safetensors.*"),
            (["-b", "1,9"], "expected band numbers from 1 to 3 for t1 .*found 9.*"),
            (["--aoi", "none.gpkg"], r"expected polygons in --aoi none\.gpkg.*"),
            (["--bbox", "0,0,1,1"], "expected an area of interest that touches the scene.*"),
            (["--bbox", "-97.5,30,-97,31", "--bbox-crs", "EPSG:4326"], "expected an area .*"),
            (["--bbox", "9,9,9.1,9.1", "--bbox-crs", "EPSG:4326"], "expected an area .*"),
            (["-o", "{}/none/a.gpkg"], r"expected a folder for .*none/a\.gpkg, found none.*"),
        ],
    )
    def test_what_must_be_fixed_ends_with_1(
        self,
        scene: list[str],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        options: list[str],
        pattern: str,
    ) -> None:
        options = [option.format(tmp_path) for option in options]
        refused(
            capsys, tmp_path, 1, pattern, "predict", *scene, "-o", tmp_path / "a.gpkg", *options
        )

    def test_scenes_that_cannot_be_used(
        self,
        scene: list[str],
        tmp_path: Path,
        write_tif: Callable[..., Path],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        inputs = tmp_path / "in"
        inputs.mkdir()
        _, t2 = images()
        cases: dict[str, tuple[dict[str, Any], str]] = {
            "no overlap.tif": (
                {"transform": Affine(10, 0, 9e5, 0, -10, 5e6)},
                "expected two scenes that overlap.*",
            ),
            "no crs.tif": ({"crs": None}, "expected a CRS in both files or in none.*"),
            "flat.tif": (
                {"transform": Affine(10, 0, 5e5, 0, 0, 5e6)},
                ".*degenerate transform.*",
            ),
        }
        for name, (profile, pattern) in cases.items():
            other = write_tif(inputs / name, t2, **profile)
            refused(
                capsys, tmp_path, 1, pattern, "predict", scene[0], other, "-o", tmp_path / "a.tif"
            )
        waves = write_tif(inputs / "complex.tif", t2.astype(np.complex64))
        refused(
            capsys,
            tmp_path,
            1,
            "expected real pixel values.*",
            "predict",
            scene[0],
            waves,
            "-o",
            tmp_path / "a.tif",
        )
        cut = write_tif(inputs / "cut.tif", t2, compress="deflate")
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
        refused(
            capsys,
            tmp_path,
            1,
            "expected a readable raster for t2, found damage.*",
            "predict",
            scene[0],
            cut,
            "-o",
            tmp_path / "a.tif",
        )
        refused(
            capsys,
            tmp_path,
            1,
            "expected a readable raster for t2, found no file at .*",
            "predict",
            scene[0],
            inputs / "none.tif",
            "-o",
            tmp_path / "a.tif",
        )
        text = inputs / "text.tif"
        text.write_text("no raster")
        refused(
            capsys,
            tmp_path,
            1,
            "expected a readable raster for t1.*",
            "predict",
            text,
            scene[0],
            "-o",
            tmp_path / "a.tif",
        )

    def test_the_inputs_are_never_overwritten(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        copies = [shutil.copy(path, tmp_path) for path in scene]
        refused(
            capsys,
            tmp_path,
            1,
            "expected an output beside the inputs.*",
            "predict",
            *copies,
            "-o",
            copies[1],
            "--overwrite",
        )

    def test_what_a_vrt_is_made_of_is_never_overwritten(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        t2 = Path(shutil.copy(scene[1], tmp_path))
        with rasterio.open(t2) as dataset, WarpedVRT(dataset) as warped:
            rasterio.shutil.copy(warped, tmp_path / "mosaic.vrt", driver="VRT")
        refused(
            capsys, tmp_path, 1, "expected an output beside the inputs.*", "predict", scene[0],
            tmp_path / "mosaic.vrt", "-o", t2, "--overwrite",
        )  # fmt: skip

    def test_the_area_of_interest_is_never_overwritten(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        area = tmp_path / "area.gpkg"
        square = shapely.box(500_100, 4_999_300, 500_500, 4_999_800)
        geopandas.GeoSeries([square], crs=32633).to_file(area)
        refused(
            capsys, tmp_path, 1, "expected an output beside the inputs.*area.gpkg.*", "predict",
            *scene, "--aoi", area, "-o", area, "--overwrite",
        )  # fmt: skip

    def test_styles_of_others_are_never_lost(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "a.qml").write_text("mine")
        outputs = ["-m", "cva", "-o", tmp_path / "a.geojson"]
        refused(capsys, tmp_path, 1, r".*a\.qml already there.*", "predict", *scene, *outputs)
        (tmp_path / "a.qml").unlink()
        for suffix in (".geojson", ".tif"):  # they share one style, which is ours
            outputs = ["-m", "cva", "-o", tmp_path / f"a{suffix}"]
            assert run(capsys, "predict", *scene, *outputs)[0] == 0

    def test_numbers_of_a_colour_table_are_no_values(
        self,
        scene: list[str],
        tmp_path: Path,
        write_tif: Callable[..., Path],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        path = write_tif(tmp_path / "p.tif", np.ones((90, 120), np.uint8))
        with rasterio.open(path, "r+") as dataset:
            dataset.write_colormap(1, {1: (255, 0, 0, 255)})
        refused(
            capsys, tmp_path, 1, "expected measured values in t1 .*gdal_translate -expand rgb.*",
            "predict", path, path, "-o", tmp_path / "a.tif",
        )  # fmt: skip

    @pytest.mark.linux
    def test_a_full_stdout_is_one_line(self, scene: list[str], tmp_path: Path) -> None:
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "rscd", "model", "list"],
                stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip
        assert done.returncode == 1
        assert re.fullmatch(r"rscd: expected to read and write files, found: .*\n", done.stderr)

    def test_a_full_disk_is_found_out_before_the_work(
        self,
        scene: list[str],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1000))
        refused(
            capsys,
            tmp_path,
            1,
            r"expected \d+ MB of free disk .*",
            "predict",
            *scene,
            "-o",
            tmp_path / "a.tif",
        )

    def test_a_disk_that_fills_up_while_writing(
        self,
        scene: list[str],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("rscd.geo.changemap.RawRaster.read", full)
        code, out, err = run(capsys, "predict", *scene, "-o", tmp_path / "a.tif", "-q")
        assert (code, out) == (1, "")
        assert re.fullmatch(r"rscd: expected .*a\.tif, found.* (disk full|No space left).*\n", err)
        assert not (tmp_path / "a.tif").exists()

    @pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may write anywhere")
    def test_a_folder_one_may_not_write(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
        refused(
            capsys,
            tmp_path,
            1,
            "expected to write .* is not writable.*",
            "predict",
            *scene,
            "-o",
            tmp_path / "a.tif",
        )
        tmp_path.chmod(stat.S_IRWXU)

    def test_prob_and_polygons_of_one_stem_are_refused(
        self, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Both would want change.qml beside them."""
        code, _, err = run(
            capsys,
            "predict",
            *scene,
            "-o",
            tmp_path / "change.geojson",
            "--prob",
            tmp_path / "change.tif",
            "-q",
        )
        assert code == 2
        assert "share the style change.qml" in err
        assert not list(tmp_path.glob("change*"))


class TestProcess:
    def test_version_and_help(self) -> None:
        assert in_process("--version").stdout == f"rscd {rscd.__version__}\n"
        for arguments in ([], ["predict"], ["sample"], ["model"], ["model", "list"]):
            done = in_process(*arguments, "--help")
            assert done.returncode == 0
            assert done.stderr == ""
            assert "usage: rscd" in done.stdout

    @pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
    def test_help_of_training_speaks_of_training(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["train", "--help"]) == 0
        assert capsys.readouterr().out.startswith("usage: rscd train -c FILE.yaml ")

    def test_help_imports_nothing_heavy(self) -> None:
        code = (
            "import sys, rscd.cli\n"
            "try: rscd.cli.main(['predict', '--help'])\n"
            "except SystemExit: pass\n"
            "heavy = {'torch', 'rasterio', 'numpy', 'geopandas', 'pyproj', 'shapely', 'rich'}\n"
            "sys.exit(' '.join(heavy & set(sys.modules)))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.stderr.strip() == ""

    def test_a_command_is_needed(self) -> None:
        done = in_process()
        assert done.returncode == 2
        assert done.stdout == ""

    @pytest.mark.slow
    def test_stdout_holds_only_paths_and_stderr_the_rest(
        self, scene: list[str], tmp_path: Path
    ) -> None:
        done = in_process("predict", *scene, "-o", tmp_path / "a.gpkg", "-o", tmp_path / "b.tif")
        assert done.returncode == 0
        assert done.stdout == f"{tmp_path / 'a.gpkg'}\n{tmp_path / 'b.tif'}\n"
        assert "result grid" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.slow
    def test_errors_of_a_real_process(self, scene: list[str], tmp_path: Path) -> None:
        done = in_process("predict", scene[0], tmp_path / "none.tif", "-o", tmp_path / "a.gpkg")
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(
            r"rscd: expected a readable raster for t2, found no file .*\n", done.stderr
        )

    def test_relative_paths(
        self,
        scene: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        for path in scene:
            shutil.copy(path, tmp_path)
        monkeypatch.chdir(tmp_path)
        found = run(capsys, "predict", "t1.tif", "t2.tif", "-o", "a.tif", "-q")
        assert found == (0, "a.tif\n", "")
        assert (tmp_path / "a.tif").exists()

    @pytest.mark.parametrize("name", ["cva", "dcva:resnet18", "ceg:spectral"])
    def test_what_is_no_network_is_not_exported(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "net.pt2"
        assert main(["model", "export", name, "-o", str(out)]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert f"expected buildings or the file of a trained network, found {name}" in line
        assert not out.exists()

    def test_models_are_listed_and_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, _ = run(capsys, "model", "list")
        assert code == 0
        assert "(default for " in out.splitlines()[0]
        names = json.loads(run(capsys, "model", "list", "--json")[1])
        assert {"irmad", "cva", "pca-kmeans"} <= names.keys()
        for name in names:
            assert json.loads(run(capsys, "model", "show", name, "--json")[1])["name"] == name


@pytest.mark.slow
@pytest.mark.realdata
def test_naip_changes_from_date_to_date(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for t1, t2 in pairwise(sorted((realdata / "geotiff" / "naip").glob("*.tif"))):
        path = tmp_path / f"{t2.stem}.tif"
        code, out, _ = run(capsys, "predict", t1, t2, "-o", path, "--json", "-q")
        assert code == 0
        assert 0 < json.loads(out)["changed_share"] < 0.6


@pytest.mark.realdata
def test_taizhou_agrees_with_its_reference(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = realdata / "geotiff" / "landsat-taizhou"
    t1, t2 = folder / "A_2000TM.tif", folder / "B_2003TM.tif"
    path = tmp_path / "change.tif"
    code, _, err = run(capsys, "predict", t1, t2, "-o", path, "-q")
    assert code == 0, err
    (reference_path,) = folder.glob("reference*.tif")
    with rasterio.open(reference_path) as dataset:
        reference = dataset.read(1)
    with rasterio.open(path) as dataset:
        change = dataset.read(1)
    labelled = reference != 127
    a, b = change[labelled] == 1, reference[labelled] == 255
    by_chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    assert ((a == b).mean() - by_chance) / (1 - by_chance) >= 0.93


@pytest.mark.realdata
def test_half_metre_pairs_in_a_national_grid(
    realdata: Path, buildings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for t1 in sorted((realdata / "geotiff" / "fotbcd").glob("*_A.tif")):
        t2 = t1.with_name(t1.name.replace("_A", "_B"))
        path = tmp_path / f"{t1.stem}.gpkg"
        code, _, err = run(capsys, "predict", t1, t2, "-m", buildings, "-o", path, "-q")
        assert code == 0, err
        frame = geopandas.read_file(path)
        assert frame.crs.to_epsg() == 2154
        with rasterio.open(t1) as dataset:
            assert shapely.box(*dataset.bounds).buffer(1).contains(frame.union_all())
