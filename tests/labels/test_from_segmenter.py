import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray

from rscd.base.types import LAYERS
from rscd.cli import main
from rscd.data.folder import PairFolder
from rscd.data.scenes import Scene, ScenePairs
from rscd.geo.scene import ScenePair
from rscd.labels.from_segmenter import DATES, _doubts, scene_pair
from rscd.labels.store import NUMBERS, TAG
from rscd.segmenters.segmenter import SemanticPrediction
from rscd.segmenters.stitch import segment

BOTH, NEW, GONE = (4, 4), (30, 36), (8, 40)
SIZE = 16


def square(mask: NDArray[Any], corner: tuple[int, int], value: float = 1) -> None:
    row, col = corner
    mask[row : row + SIZE, col : col + SIZE] = value


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two pairs of 64 x 64 PNG with masks of buildings beside them, as another program makes."""
    rng = np.random.default_rng(0)
    for name, (first, second) in {
        "a": ((BOTH, GONE), (BOTH, NEW)),
        "b": ((BOTH,), (BOTH,)),
    }.items():
        for date, folder, corners in (("t1", "A", first), ("t2", "B", second)):
            image = rng.integers(0, 255, (64, 64, 3), np.uint8)
            masks = {"building": np.zeros((64, 64), np.uint8)}
            for corner in corners:
                square(masks["building"], corner, 255)
            masks["ground"] = 255 - masks["building"]
            for path, pixels in (
                (tmp_path / "set" / folder / f"{name}.png", image),
                *((tmp_path / "ape" / date / k / f"{name}.png", v) for k, v in masks.items()),
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels)
    return tmp_path


OPTION = "--segmenter-option"
WORDS = ["--foreground", "building", "--background", "ground"]


def stored(path: Path) -> NDArray[Any]:
    """A label as it lies in its file."""
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert values is not None
    return values


def label(
    tmp_path: Path, *more: Any, code: int = 0, backend: str = "precomputed", source: str = "set"
) -> None:
    argv = ["pseudolabel", str(tmp_path / source), "--segmenter", backend, *WORDS, "-q"]
    if backend in ("precomputed", "fake"):
        argv += [OPTION, f"folder={tmp_path / 'ape'}"]
    try:
        found: object = main([*argv, *map(str, more)])
    except SystemExit as stop:  # argparse
        found = stop.code
    assert found == code


def test_the_labels_can_be_trained_on(dataset: Path) -> None:
    store = dataset / "store"
    label(dataset, "-o", store)
    layers = {k: {"folder": store / k} for k in ("vl_change", "vl_t1", "vl_t2")}
    from rscd.data.folder import Layer
    from rscd.geo.labels import IGNORE_CODED

    folder = PairFolder(
        dataset / "set",
        keys={"image", *layers},
        layers={k: Layer(store / k, IGNORE_CODED) for k in layers},
    )
    change = np.zeros((64, 64), int)
    square(change, GONE)
    square(change, NEW)
    assert (folder[0]["vl_change"][0].numpy() == change).all()
    assert (folder[1]["vl_change"] == 0).all()
    first = np.zeros((64, 64), int)
    square(first, BOTH)
    square(first, GONE)
    assert (folder[0]["vl_t1"][0].numpy() == first).all()


def test_without_a_store_the_labels_lie_beside_the_dates(dataset: Path) -> None:
    label(dataset)
    folder = PairFolder(dataset / "set", keys={"image", "vl_change", "vl_t1", "vl_t2"})
    assert folder[0]["vl_change"].sum() > 0
    run = json.loads((dataset / "set" / "vl_store" / "run.json").read_text())
    assert run["summary"]["pairs"] == 2
    assert run["summary"]["instances"] == [3, 3]
    assert run["store"]["backend"] == "precomputed"


def test_split_folders_keep_their_labels_apart(dataset: Path) -> None:
    for part in ("train", "test"):
        for folder in ("A", "B"):
            target = dataset / "parts" / part / folder
            target.mkdir(parents=True)
            target.joinpath("a.png").write_bytes((dataset / "set" / folder / "a.png").read_bytes())
        for date in ("t1", "t2"):
            for name in ("building", "ground"):
                target = dataset / "ape" / date / name / part
                target.mkdir()
                target.joinpath("a.png").write_bytes((target.parent / "a.png").read_bytes())
    label(dataset, "-o", dataset / "store", source="parts")
    for part in ("train", "test"):
        assert (dataset / "store" / part / "vl_change" / "a.png").is_file()
        assert (dataset / "store" / "prob" / part / "a_1.tif").is_file()


def test_only_what_is_missing_is_done_again(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = dataset / "store"
    label(dataset, "-o", store)
    before = {path: path.stat().st_mtime_ns for path in (store / "prob").iterdir()}
    (store / "prob" / "b_2.tif").unlink()
    capsys.readouterr()
    label(dataset, "-o", store, "--json", "--gamma", "0.9")
    told = json.loads(capsys.readouterr().out)
    assert told["segmented"] == 1
    assert told["gamma"] == 0.9
    after = {path: path.stat().st_mtime_ns for path in (store / "prob").iterdir()}
    assert after.keys() == before.keys()
    assert [p.name for p in before if before[p] != after[p]] == ["b_2.tif"]
    assert len((store / "log.jsonl").read_text().splitlines()) == 5


def test_a_damaged_pair_stops_nothing(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = dataset / "store"
    picture = dataset / "set" / "B" / "a.png"
    whole = picture.read_bytes()
    picture.write_bytes(b"no picture")
    label(dataset, "-o", store, "--json", code=1)
    out, err = capsys.readouterr()
    assert list(json.loads(out)["failed"]) == ["a"]
    assert "found 1 that failed: a;" in err.splitlines()[-1]
    assert (store / "vl_change" / "b.png").is_file()
    assert not (store / "vl_change" / "a.png").exists()
    picture.write_bytes(whole)
    label(dataset, "-o", store)
    assert (store / "vl_change" / "a.png").is_file()


def test_an_interrupted_run_goes_on(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rscd.labels import from_segmenter

    store = dataset / "store"
    calls = []

    def sometimes(*args: Any, **options: Any) -> SemanticPrediction:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return segment(*args, **options)

    monkeypatch.setattr(from_segmenter, "segment", sometimes)
    label(dataset, "-o", store, code=130)
    assert len(list((store / "prob").iterdir())) == 2
    label(dataset, "-o", store)
    assert len(calls) == 5


def test_other_settings_are_refused(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label(dataset, "-o", dataset / "store")
    label(dataset, "-o", dataset / "store", "--tile-size", 32, "--overlap", 8, code=1)
    assert "found other windows; choose another folder" in capsys.readouterr().err
    again = ["--tile-size", 32, "--overlap", 8, "--overwrite", "--json"]
    label(dataset, "-o", dataset / "store", *again)
    assert json.loads(capsys.readouterr().out)["segmented"] == 4


def test_windows_give_the_same_labels(dataset: Path) -> None:
    label(dataset, "-o", dataset / "whole")
    label(dataset, "-o", dataset / "cut", "--tile-size", 24, "--overlap", 8)
    for layer in ("vl_change", "vl_t1", "vl_t2"):
        one, other = (stored(dataset / store / layer / "a.png") for store in ("whole", "cut"))
        assert (one == other).all()


def test_unreliable_pixels_are_ignored(dataset: Path) -> None:
    masks = dataset / "ape" / "t1"
    doubt = np.full((64, 64), 100, np.uint8)
    for name in ("building", "ground"):
        values = stored(masks / name / "a.png")
        values[40:] = doubt[40:]
        cv2.imwrite(str(masks / name / "a.png"), values)
    label(dataset, "-o", dataset / "store")
    change = stored(dataset / "store/vl_change/a.png")

    assert (change[40:] == 255).all()
    assert (change[:40] != 255).all()
    second = stored(dataset / "store/vl_t2/a.png")
    assert (second != 255).all()


class TestRefusals:
    @pytest.mark.parametrize(
        ("more", "code", "message"),
        [
            (["--background", "ground,lake"], 1, r"expected scores of building, ground, lake"),
            (["--foreground", "building,building"], 2, "building repeated"),
            (["--gamma", "1.5"], 2, "expected gamma from 0 to 1, found 1.5"),
            (["--delta", "-1"], 2, "expected a number of 0 or more"),
            (["--tile-size", "0"], 2, "expected a tile of at least one pixel"),
            (["--tile-size", "9", "--overlap", "9"], 2, "expected an overlap from 0 to below"),
            (["--gsd", "0"], 2, "expected a number above 0"),
            (["--min-area", "5"], 2, "give --gsd METRES"),
            ([OPTION, "nothing"], 2, "expected --segmenter-option NAME=VALUE"),
            (
                [OPTION, "missing=maybe"],
                2,
                "expected missing=error, zero or complement",
            ),
            (["--split", "val"], 1, "no split 'val'"),
            (["--scales", "fast"], 2, "expected --scales only with --checkpoint"),
            (["--no-gate"], 2, "expected --no-gate only with --checkpoint"),
            (["--overlap", "40", "--tile-size", "32"], 2, "expected an overlap from 0"),
        ],
    )
    def test_bad_options(
        self,
        dataset: Path,
        capsys: pytest.CaptureFixture[str],
        more: list[str],
        code: int,
        message: str,
    ) -> None:
        label(dataset, "-o", dataset / "store", *more, code=code)
        said = capsys.readouterr().err
        assert said.startswith("rscd: ")
        assert len(said.splitlines()) == 1
        import re

        assert re.search(message, said)

    def test_no_backend(self, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["pseudolabel", str(dataset / "set")])
        assert "--checkpoint --segmenter is required" in capsys.readouterr().err

    def test_no_folders_of_dates(self, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (dataset / "ape" / "t1").rename(dataset / "ape" / "x")
        label(dataset, code=1)
        assert "expected the folders t1/ and t2/, found t2, x" in capsys.readouterr().err

    def test_another_size(self, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
        cv2.imwrite(str(dataset / "ape/t2/building/b.png"), np.zeros((32, 32), np.uint8))
        label(dataset, code=1)
        assert "expected 64 x 64 pixels (height x width)" in capsys.readouterr().err

    def test_a_place_that_cannot_be_written(
        self, dataset: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (dataset / "file").write_text("")
        label(dataset, "-o", dataset / "file" / "store", code=1)
        assert "choose a folder that exists" in capsys.readouterr().err


class TestMissingClasses:
    def test_complement_needs_the_foreground_alone(self, dataset: Path) -> None:
        for date in ("t1", "t2"):
            for path in (dataset / "ape" / date / "ground").iterdir():
                path.unlink()
        label(dataset, "-o", dataset / "store", OPTION, "missing=complement")
        change = stored(dataset / "store/vl_change/a.png")
        assert (change == 1).sum() == 2 * SIZE**2
        assert not (change == 255).any()

    def test_zero_ignores_what_nothing_covers(self, dataset: Path) -> None:
        for date in ("t1", "t2"):
            for path in (dataset / "ape" / date / "ground").iterdir():
                path.unlink()
        label(dataset, "-o", dataset / "store", OPTION, "missing=zero")
        change = stored(dataset / "store/vl_change/a.png")
        assert (change == 255).any()


def test_the_fake_backend_and_its_warnings(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["pseudolabel", str(dataset / "set"), "--segmenter", "fake", *WORDS]
    argv += [
        OPTION,
        f"folder={dataset / 'ape'}",
        OPTION,
        "missed=1",
        "-o",
        str(dataset / "store"),
    ]
    assert main(argv) == 0
    said = capsys.readouterr().err
    assert "no object of the foreground in any image" in said
    assert "is for demonstration only: do not quote its accuracy" in said
    assert "reliable at both dates by gamma: 0.1: 100.0%" in said


@pytest.mark.parametrize(
    ("first", "second", "doubtful"),
    [(0, 3, False), (0, 4, True), (4, 0, True), (10, 30, False), (10, 31, True), (31, 10, True)],
)
def test_a_prompt_that_fires_on_one_date_only_is_said(
    first: int, second: int, doubtful: bool
) -> None:
    found = list(_doubts(0.5, first, second, 0.8))
    assert len(found) == doubtful
    said = f"{first} objects at t1, {second} at t2: a prompt may fire on one date only"
    assert all(said in text for text in found)


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.09, "almost everything will be ignored"), (0.1, ""), (0.95, ""), (0.96, "raise --gamma")],
)
def test_thresholds_that_keep_too_little_or_everything_are_said(share: float, said: str) -> None:
    found = list(_doubts(share, 1, 1, 0.8))
    assert len(found) == bool(said)
    assert all(said in text for text in found)


@pytest.fixture
def scene(tmp_path: Path, write_tif: Callable[..., Path]) -> Path:
    """Two scenes of half a metre, t2 one row longer, and scores with bands named by class."""
    grid = {"transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}
    rng = np.random.default_rng(1)
    for date, rows, corner in (("t1", 64, GONE), ("t2", 65, NEW)):
        write_tif(tmp_path / f"{date}.tif", rng.integers(1, 255, (4, rows, 64), np.uint8), **grid)
        prob = np.zeros((2, 64, 64), np.float32)
        square(prob[0], BOTH, 0.95)
        square(prob[0], corner, 0.85)
        prob[1] = np.where(prob[0] > 0, 0.05, 0.9)
        (tmp_path / "ape" / date).mkdir(parents=True)
        path = write_tif(tmp_path / "ape" / date / "t1_t2.tif", prob, **grid)
        with rasterio.open(path, "r+") as out:
            out.descriptions = ("building", "ground")
    return tmp_path


def test_a_segmenter_sees_the_pixels_of_a_scene_where_they_lie(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    ramp = np.arange(20 * 30).reshape(20, 30) % 251
    values = np.stack([ramp, ramp[::-1], ramp[:, ::-1]]).astype(np.uint8)
    values[:, 0, 0], values[:, 0, 1] = 0, 255  # the whole range, so that nothing is stretched
    path = write_tif(tmp_path / "t.tif", values)
    pair = scene_pair(ScenePair.open(path, path), tmp_path)
    for date in DATES:
        np.testing.assert_array_equal(pair.read(date).rgb, values.transpose(1, 2, 0))


def test_two_rasters(scene: Path) -> None:
    argv = ["pseudolabel", str(scene / "t1.tif"), str(scene / "t2.tif"), *WORDS, "-q"]
    argv += [
        "--segmenter",
        "precomputed",
        OPTION,
        f"folder={scene / 'ape'}",
        "--min-area",
        "20",
    ]
    assert main([*argv, "-o", str(scene / "store")]) == 0
    with rasterio.open(scene / "store/vl_change/t1_t2.tif") as dataset:
        change = dataset.read(1)
        assert (dataset.crs.to_epsg(), dataset.nodata) == (32633, 255)
        assert dataset.transform == Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
    assert (change == 1).sum() == 2 * SIZE**2
    scenes = ScenePairs(
        Scene(str(scene / "t1.tif"), str(scene / "t2.tif"), layers=str(scene / "store")),
        keys=LAYERS,
    )
    for layer in LAYERS:
        with rasterio.open(scene / f"store/{layer}/t1_t2.tif") as dataset:
            np.testing.assert_array_equal(scenes[:, :][layer][0], dataset.read(1))
    with rasterio.open(scene / f"store/prob/t1_t2_{NUMBERS['t1']}.tif") as dataset:
        assert json.loads(dataset.tags()[TAG])["source"]["bands"]


def test_rasters_of_the_same_names_do_not_replace_each_other(
    scene: Path, write_tif: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A store per scene: labels are named after the rasters alone."""
    rng = np.random.default_rng(0)
    for place, left in (("one", 500_000), ("two", 600_000)):
        (scene / place).mkdir()
        for date in ("t1", "t2"):
            pixels = rng.integers(1, 255, (3, 32, 32), np.uint8)
            grid = {"transform": Affine(0.5, 0, left, 0, -0.5, 5_000_000), "crs": "EPSG:32633"}
            write_tif(scene / place / f"{date}.tif", pixels, **grid)
    store = scene / "store"

    def labels(place: str, *more: str) -> int:
        rasters = [str(scene / place / f"{date}.tif") for date in ("t1", "t2")]
        return main(["pseudolabel", *rasters, "--segmenter", "spectral", "-q", *more, "-o",
                     str(store)])  # fmt: skip

    def edge() -> float:
        with rasterio.open(store / "vl_change/t1_t2.tif") as dataset:
            return float(dataset.transform.c)

    assert labels("one") == 0
    assert labels("two") == 1
    error = capsys.readouterr().err
    assert f"found those of {scene / 'one' / 't1.tif'}; give another folder with -o" in error
    assert edge() == 500_000
    assert labels("one") == 0
    (scene / "one").rename(scene / "moved")
    assert labels("moved") == 0
    assert labels("two", "--overwrite") == 0
    assert edge() == 600_000


def test_objects_of_one_size_in_degrees_differ_in_square_metres(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    """At 60 degrees a pixel of a degree is half as wide as at the equator."""
    grid = {"transform": Affine(1, 0, 0, 0, -1, 64), "crs": "EPSG:4326"}
    north, south = (2, 10), (58, 30)
    rng = np.random.default_rng(1)
    for date, corners in (("t1", ()), ("t2", (north, south))):
        write_tif(tmp_path / f"{date}.tif", rng.integers(1, 255, (3, 64, 64), np.uint8), **grid)
        prob = np.zeros((2, 64, 64), np.float32)
        for row, col in corners:
            prob[0, row : row + 4, col : col + 4] = 0.95
        prob[1] = 1 - prob[0]
        (tmp_path / "ape" / date).mkdir(parents=True)
        path = write_tif(tmp_path / "ape" / date / "t1_t2.tif", prob, **grid)
        with rasterio.open(path, "r+") as out:
            out.descriptions = ("building", "ground")
    pixel_m2 = 111_000.0**2
    argv = ["pseudolabel", str(tmp_path / "t1.tif"), str(tmp_path / "t2.tif"), *WORDS, "-q"]
    argv += ["--segmenter", "precomputed", OPTION, f"folder={tmp_path / 'ape'}"]
    for least, kept in ((12 * pixel_m2, [south]), (7 * pixel_m2, [north, south]), (0, None)):
        store = tmp_path / f"store{least:.0f}"
        assert main([*argv, "--min-area", str(least), "-o", str(store)]) == 0
        with rasterio.open(store / "vl_change/t1_t2.tif") as dataset:
            change = dataset.read(1) == 1
        expected = np.zeros((64, 64), bool)
        for row, col in kept or (north, south):
            expected[row : row + 4, col : col + 4] = True
        assert (change == expected).all(), least


@pytest.mark.parametrize(("least", "kept"), [(SIZE**2, 2), (SIZE**2 + 0.5, 0)])
def test_an_object_of_just_the_least_area_takes_part(
    dataset: Path, least: float, kept: int
) -> None:
    label(dataset, "--gsd", "1", "--min-area", least, "-o", dataset / "store")
    change = stored(next((dataset / "store/vl_change").glob("a*")))
    assert (change == 1).sum() == kept * SIZE**2


def test_scores_on_another_grid_are_refused(
    scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with rasterio.open(scene / "ape/t2/t1_t2.tif", "r+") as out:
        out.transform = Affine(0.5, 0, 500_001, 0, -0.5, 5_000_000)
    argv = ["pseudolabel", str(scene / "t1.tif"), str(scene / "t2.tif"), *WORDS, "-q"]
    argv += ["--segmenter", "precomputed", OPTION, f"folder={scene / 'ape'}"]
    assert main([*argv, "-o", str(scene / "store")]) == 1
    assert "expected the grid of the image" in capsys.readouterr().err


@pytest.mark.parametrize(("wrong", "found"), [(-0.5, "-0.5 to 0.95"), (1.5, "0 to 1.5")])
def test_scores_beyond_0_or_1_are_refused(
    scene: Path, capsys: pytest.CaptureFixture[str], wrong: float, found: str
) -> None:
    with rasterio.open(scene / "ape/t2/t1_t2.tif", "r+") as out:
        prob = out.read()
        prob[0, 0, 0] = wrong
        out.write(prob)
    argv = ["pseudolabel", str(scene / "t1.tif"), str(scene / "t2.tif"), *WORDS, "-q"]
    argv += ["--segmenter", "precomputed", OPTION, f"folder={scene / 'ape'}"]
    assert main([*argv, "-o", str(scene / "store")]) == 1
    assert f"expected scores from 0 to 1, found {found}; " in capsys.readouterr().err


def test_two_rasters_need_a_place(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["pseudolabel", str(scene / "t1.tif"), str(scene / "t2.tif"), "--segmenter", "spectral"]
    assert main(argv) == 2
    assert "expected -o STORE" in capsys.readouterr().err


def test_objects_are_kept_as_polygons(dataset: Path) -> None:
    label(dataset, "-o", dataset / "store", backend="fake")
    table = geopandas.read_parquet(dataset / "store/instances/a_1.parquet")
    assert list(table["class"]) == ["building", "building"]
    assert list(table.area) == [SIZE**2, SIZE**2]
