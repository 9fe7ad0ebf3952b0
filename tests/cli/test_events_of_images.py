import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

import rscd
from rscd.cli import main
from rscd.geo.grid import apply
from rscd.labels.from_segmenter import LabelOptions
from rscd.segmenters import precomputed
from rscd.segmenters.prompts import parse_prompts
from rscd.segmenters.segmenter import SEGMENTERS, load_segmenter

GRID = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
BOTH, NEW, GONE = (4, 4), (30, 36), (8, 40)
SIZE = 16
OPTION = "--segmenter-option"
WORDS = ["--foreground", "building", "--background", "ground"]


@pytest.fixture
def scene(tmp_path: Path, write_tif: Callable[..., Path]) -> Path:
    """Two scenes of half a metre, and scores with bands named by class."""
    rng = np.random.default_rng(1)
    for date, corner in (("t1", GONE), ("t2", NEW)):
        image = rng.integers(1, 255, (3, 64, 64), np.uint8)
        write_tif(tmp_path / f"{date}.tif", image, transform=GRID)
        prob = np.zeros((2, 64, 64), np.float32)
        for place, score in ((BOTH, 0.95), (corner, 0.85)):
            prob[0, place[0] : place[0] + SIZE, place[1] : place[1] + SIZE] = score
        prob[1] = np.where(prob[0] > 0, 0.05, 0.9)
        (tmp_path / "ape" / date).mkdir(parents=True)
        path = write_tif(tmp_path / "ape" / date / "t1_t2.tif", prob, transform=GRID)
        with rasterio.open(path, "r+") as out:
            out.descriptions = ("building", "ground")
    return tmp_path


def events(
    scene: Path, *more: Any, code: int = 0, segmenter: str = "precomputed", words: list[str] = WORDS
) -> None:
    argv = ["events", str(scene / "t1.tif"), str(scene / "t2.tif"), "--segmenter", segmenter]
    if segmenter in ("precomputed", "fake"):
        argv += [OPTION, f"folder={scene / 'ape'}"]
    try:
        found: object = main([*argv, *words, *map(str, more)])
    except SystemExit as stop:  # argparse
        found = stop.code
    assert found == code


def test_events_become_polygons(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events(scene, "-o", scene / "events.gpkg", "--t1-date", "2019-01-01", "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["appeared"], told["vanished"]) == (1, 1)
    assert told["objects_t1"] == 2
    table = geopandas.read_file(scene / "events.gpkg").set_index("kind")
    assert set(table.index) == {"appeared", "vanished"}
    for kind, (row, col) in (("appeared", NEW), ("vanished", GONE)):
        event = table.loc[kind]
        left, top = GRID * (col, row)
        assert event.geometry.bounds == (left, top - SIZE / 2, left + SIZE / 2, top)
        assert event["class"] == "building"
        assert event["score"] == pytest.approx(0.85, abs=1e-3)
        assert event["iou_sum"] == 0
        assert event["area_m2"] == pytest.approx(SIZE**2 / 4, rel=1e-2)
        assert event["model"] == "ceg:precomputed"
        assert str(event["t1"])[:10] == "2019-01-01"


def test_without_change_the_layer_is_there_and_empty(scene: Path) -> None:
    (scene / "ape/t2/t1_t2.tif").write_bytes((scene / "ape/t1/t1_t2.tif").read_bytes())
    events(scene, "-o", scene / "events.geojson", "-o", scene / "events.parquet", "-q")
    assert json.loads((scene / "events.geojson").read_text())["features"] == []
    assert len(geopandas.read_parquet(scene / "events.parquet")) == 0


def test_an_object_that_two_prompts_find_is_listed_once_unless_all_are_wanted(
    scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stack of masks of another program: the new house twice, one of them a little larger."""
    masks = np.zeros((2, 64, 64), bool)
    masks[:, 30:46, 36:52] = True
    masks[1, 46] = masks[1, 45]
    for date, found in (("t1", masks[:0]), ("t2", masks)):
        (scene / "ape" / date / "t1_t2.tif").unlink()
        np.save(scene / "ape" / date / "t1_t2.npy", found)
    option = [OPTION, "missing=complement", "--json"]
    for more, expected in (([], 1), (["--duplicate-iou", "1"], 2)):
        events(scene, "-o", scene / f"{expected}.gpkg", *option, *more)
        assert json.loads(capsys.readouterr().out)["appeared"] == expected
    assert LabelOptions().duplicate_iou == 1


def test_small_events_are_left_out_of_the_result_alone(
    scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events(scene, "-o", scene / "a.gpkg", "--min-area", 100, "--json")
    assert json.loads(capsys.readouterr().out)["objects_t1"] == 2
    assert len(geopandas.read_file(scene / "a.gpkg")) == 0


@pytest.mark.parametrize("segmenter", ["spectral", "fake"])
def test_segmenters_without_weights(
    scene: Path, segmenter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--foreground", "building", "--background", "road,grass"]
    words = WORDS if segmenter == "fake" else words
    events(scene, "-o", scene / "a.gpkg", segmenter=segmenter, words=words)
    assert "is for demonstration only: do not quote its accuracy" in capsys.readouterr().err
    kinds = set(geopandas.read_file(scene / "a.gpkg")["kind"])
    assert kinds <= {"appeared", "vanished"}
    assert segmenter == "spectral" or kinds == {"appeared", "vanished"}


@pytest.mark.slow
@pytest.mark.parametrize("segmenter", ["sam3", "clipseg"])
def test_a_tiny_model(scene: Path, segmenter: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(f"{segmenter}_folder")
    model = [OPTION, f"model={folder}", "--device", "cpu", "--gamma", "0.1"]
    events(scene, "-o", scene / "a.gpkg", *model, "-q", segmenter=segmenter)
    assert "iou_sum" in geopandas.read_file(scene / "a.gpkg")


def test_slow_runs_must_be_asked_for(
    scene: Path,
    capsys: pytest.CaptureFixture[str],
    sam3_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rscd.segmenters.sam3.Sam3.seconds_per_view", lambda self, prompts: 3600.0)
    model = [
        OPTION,
        f"model={sam3_folder}",
        "--device",
        "cpu",
        "-o",
        scene / "a.gpkg",
    ]
    events(scene, *model, segmenter="sam3", code=2)
    said = capsys.readouterr().err
    assert "about 2.0 hours (2 windows of 3600 s) on this CPU" in said
    assert "--allow-slow-cpu" in said
    events(scene, *model, "--allow-slow-cpu", "-q", segmenter="sam3")


def test_a_plan(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events(scene, "-o", scene / "a.gpkg", "--dry-run", "--json", "--tile-size", 40)
    told = json.loads(capsys.readouterr().out)
    assert told["windows_per_date"] == 4
    assert not (scene / "a.gpkg").exists()


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["-o", "{}/a.tif"], 2, r"expected vector files .* found .*a\.tif"),
        (["-o", "{}/a.gpkg", "--prob", "{}/p.tif"], 2, "unrecognized arguments: --prob"),
        (["-o", "{}/a.gpkg", "--threshold", "0.5"], 2, "unrecognized arguments: --threshold"),
        (["-o", "{}/a.gpkg", "--max-memory", "2GB"], 2, "unrecognized arguments: --max-memory"),
        (["-o", "{}/a.gpkg", "--gsd", "3"], 2, "expected --gsd only with images without georef"),
        (["-o", "{}/a.gpkg", "--background", ""], 2, "found an empty one"),
        (
            ["-o", "{}/t1.tif.gpkg", OPTION, "folder=/no/such"],
            1,
            "expected a folder of segment",
        ),
        (["-o", "{}/a.gpkg", "--segmenter", ""], 2, "expected a segmenter among sam3"),
        (["-o", "{}/a.gpkg", "--segmenter", "sam4"], 2, "expected a segmenter among sam3"),
        (
            ["-o", "{}/a.gpkg", "--kinds", "kept"],
            2,
            "expected --kinds only with two layers",
        ),
        (["-o", "{}/a.gpkg", "--crs", "EPSG:4326"], 2, "expected --crs only with two layers"),
        (["-o", "{}/a.geojson", "--lco", "NO_SUCH=1"], 2, "NO_SUCH"),
        (["-o", "{}/a.gpkg", "--gamma", "2"], 2, "expected gamma from 0 to 1"),
    ],
)
def test_refusals(
    scene: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, message: str
) -> None:
    events(scene, *(str(text).format(scene) for text in more), code=code)
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, said), said
    assert sorted(path.name for path in scene.iterdir()) == ["ape", "t1.tif", "t2.tif"]


def test_a_scene_too_large_for_memory(
    scene: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))
    events(scene, "-o", scene / "a.gpkg", code=2)
    assert "selecting a part with --bbox or --aoi does not help" in capsys.readouterr().err


def test_folders_go_pair_by_pair_with_one_backend(
    tmp_path: Path, scene: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for date in ("t1", "t2"):
        scores = scene / "ape" / date / "t1_t2.tif"
        for name in ("a", "b"):
            (tmp_path / date).mkdir(exist_ok=True)
            shutil.copy(scene / f"{date}.tif", tmp_path / date / f"{name}.tif")
            shutil.copy(scores, scores.with_name(f"{name}.tif"))
    loaded = []
    real = precomputed.build

    def noted(options: Any) -> Any:
        loaded.append(options)
        return real(options)

    monkeypatch.setattr(precomputed, "build", noted)
    argv = ["events", str(tmp_path / "t1"), str(tmp_path / "t2"), *WORDS]
    argv += ["--segmenter", "precomputed", OPTION, f"folder={scene / 'ape'}", "-q"]
    assert main([*argv, "-o", str(tmp_path / "all.gpkg")]) == 2
    assert "expected {name} in output names" in capsys.readouterr().err
    assert main([*argv, "-o", str(tmp_path / "{name}.gpkg")]) == 0
    assert len(loaded) == 1
    for name in ("a", "b"):
        assert set(geopandas.read_file(tmp_path / f"{name}.gpkg")["kind"]) == {
            "appeared",
            "vanished",
        }


def test_from_python(scene: Path) -> None:
    pair = rscd.open_pair(scene / "t1.tif", scene / "t2.tif")
    segmenter = load_segmenter("precomputed", {"folder": str(scene / "ape")})
    prompts = parse_prompts("building", "ground")
    result = rscd.predict_events(pair, [scene / "a.geojson"], segmenter, prompts)
    assert (result.appeared, result.vanished) == (1, 1)
    assert len(geopandas.read_file(scene / "a.geojson")) == 2
    with pytest.raises(rscd.RscdError, match=r"in Python rscd\.predict_events"):
        rscd.predict(pair, [scene / "b.geojson"], rscd.Options(model="ceg:precomputed"))
    for args, told in (
        ((scene / "t1.tif", [], segmenter, prompts), "expected ScenePair as pair, found .*Path"),
        ((pair, [], prompts, segmenter), "expected Segmenter as segmenter, found PromptSet"),
        ((pair, [], segmenter, "building"), "expected PromptSet as prompts, found str"),
        ((pair, [], segmenter, prompts, rscd.Options()), "expected LabelOptions as rules, found O"),
        ((pair, None, segmenter, prompts), "expected at least one output, found none"),
    ):
        with pytest.raises(rscd.RscdError, match=told):
            rscd.predict_events(*args)
    assert not (scene / "b.geojson").exists()


def test_segmenters_are_listed_and_shown_without_being_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["model", "list", "--json"]) == 0
    names = [name for name in json.loads(capsys.readouterr().out) if name.startswith("ceg:")]
    assert names == [f"ceg:{name}" for name in SEGMENTERS]
    for name in names:
        assert main(["model", "show", name, "--json"]) == 0
        card = json.loads(capsys.readouterr().out)
        assert card["name"] == name
        assert card["options"]
    assert main(["model", "show", "ceg:sam4"]) == 2
    assert "expected a segmenter among sam3" in capsys.readouterr().err


def bbox(rows: tuple[int, int], cols: tuple[int, int]) -> str:
    """``--bbox`` of rows and columns of the scene."""
    x, y = apply(GRID, np.array(cols), np.array(rows))
    return f"--bbox={x[0]},{y[1]},{x[1]},{y[0]}"


def burnt(path: Path, shape: tuple[int, int]) -> NDArray[Any]:
    """(H,W) 1 where something appeared, 2 where something vanished."""
    table = geopandas.read_file(path)
    shapes = [
        (shape, {"appeared": 1, "vanished": 2}[kind])
        for shape, kind in zip(table.geometry, table["kind"], strict=True)
    ]
    if not shapes:
        return np.zeros(shape, np.uint8)
    return rasterize(shapes, out_shape=shape, transform=GRID, dtype="uint8")


@pytest.mark.parametrize(
    ("segmenter", "more"),
    [("precomputed", []), ("precomputed", ["--tile-size", 24]), ("spectral", [])],
)
def test_a_scene_split_by_boxes_gives_the_events_of_the_whole_scene(
    scene: Path, segmenter: str, more: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = WORDS if segmenter == "precomputed" else ["--foreground", "building", *WORDS[2:]]
    words = words if segmenter == "precomputed" else [*words[:2], "--background", "road,grass"]
    more = [*more, "--overwrite", "--json", "-q"]
    events(scene, "-o", scene / "whole.gpkg", *more, segmenter=segmenter, words=words)
    whole = burnt(scene / "whole.gpkg", (64, 64))
    assert whole.any()
    parts = np.zeros((64, 64), np.uint8)
    for rows in ((0, 37), (37, 64)):
        for cols in ((0, 43), (43, 64)):
            box = bbox(rows, cols)
            path = scene / "part.gpkg"
            events(scene, "-o", path, box, *more, segmenter=segmenter, words=words)
            found = burnt(path, (64, 64))
            assert not found[: rows[0]].any()
            parts |= found
    np.testing.assert_array_equal(parts, whole)


def test_the_reliable_share_is_that_of_pixels_of_the_area_with_an_image(
    scene: Path, write_tif: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    row, col = NEW[0] - 4, NEW[1] - 4
    image = np.full((3, 64, 64), 9, np.uint8)
    image[:, :, col : col + 2] = 0
    write_tif(scene / "t2.tif", image, transform=GRID, nodata=0)
    area = bbox((row, row + 10), (col, col + 10))  # with 6 x 6 pixels of an object of score 0.85
    events(scene, "-o", scene / "a.gpkg", area, "--gamma", 0.87, "--json")
    assert json.loads(capsys.readouterr().out)["reliable"] == 100 * (80 - 36) / 80


def test_an_object_that_an_area_cuts_is_flagged(
    scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = bbox((NEW[0] - 4, NEW[0] + 6), (NEW[1] - 4, NEW[1] + 6))
    events(scene, "-o", scene / "a.gpkg", box, "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["appeared"], told["objects_t1"], told["objects_t2"]) == (1, 0, 1)
    table = geopandas.read_file(scene / "a.gpkg")
    assert table["flags"].tolist() == ["edge"]
    assert table["score"].tolist() == [pytest.approx(0.85, abs=1e-3)]
    assert table.geometry[0].area == pytest.approx(36 / 4)
