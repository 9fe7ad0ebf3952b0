"""``rscd evaluate`` from the outside: arguments in; text, JSON, pictures and exit codes out."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import geopandas
import numpy as np
import pytest
import shapely
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from rscd.cli import main
from rscd.inference.network import save_weights
from rscd.models.networks import build_network

CHANGED = slice(30, 50), slice(40, 70)


def images(seed: int, shape: tuple[int, int] = (80, 100)) -> list[NDArray[Any]]:
    rng = np.random.default_rng(seed)
    fields = uniform_filter(rng.random((3, *shape)) * 255, (0, 9, 9)) * 2 % 200
    t1, t2 = (fields + rng.normal(0, 3, fields.shape) for _ in range(2))
    t2[:, CHANGED[0], CHANGED[1]] += 120
    return [np.clip(date, 1, 255).astype(np.uint8) for date in (t1, t2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pairs with one changed rectangle each, in ``test/{A,B,label}``."""
    root = tmp_path_factory.mktemp("pairs")
    label = np.zeros((80, 100), np.uint8)
    label[29:50, 40:70] = 255  # one row more than what changes
    for seed in range(5):
        t1, t2 = (np.moveaxis(date, 0, 2) for date in images(seed))
        for name, array in (("A", t1), ("B", t2), ("label", label)):
            path = root / "test" / name / f"pair_{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), array)
    return root


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory, write_tif: Callable[..., Path]
) -> dict[str, str]:
    """Files of one scene by name: t1, t2, truth (127 = unlabelled), change, prob."""
    home = tmp_path_factory.mktemp("scene")
    t1, t2 = images(9)
    truth = np.zeros((80, 100), np.uint8)
    truth[29:50, 40:70] = 255
    truth[60:] = 127
    files = {
        name: write_tif(home / f"{name}.tif", pixels)
        for name, pixels in (("t1", t1), ("t2", t2), ("truth", truth))
    }
    outputs = ["-o", home / "change.tif", "-o", home / "change.gpkg", "--prob", home / "prob.tif"]
    arguments = ["predict", files["t1"], files["t2"], "-m", "cva", "-q", *outputs]
    assert main([str(argument) for argument in arguments]) == 0
    names = ("change.tif", "change.gpkg", "prob.tif")
    return {k: str(v) for k, v in (files | {n: home / n for n in names}).items()}


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a command in this process."""
    capsys.readouterr()
    try:
        code: Any = main(["evaluate", *map(str, arguments)])
    except SystemExit as stop:  # argparse
        code = stop.code
    return code, *capsys.readouterr()


def shape_of(picture: Path) -> tuple[int, ...]:
    pixels = cv2.imread(str(picture))
    assert pixels is not None
    return pixels.shape


def refused(capsys: pytest.CaptureFixture[str], code: int, pattern: Any, *arguments: Any) -> None:
    """The command fails in one clear line."""
    got, out, err = run(capsys, *arguments, "-q")
    assert (got, out) == (code, "")
    assert re.fullmatch(rf"rscd: {pattern}\n", err), err


def test_a_detector_on_a_split_as_text_json_and_pictures(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    sheet, diagram = tmp_path / "sheet.png", tmp_path / "reliability.png"
    arguments = (folder, "--split", "test", "-m", "cva")
    code, out, err = run(capsys, *arguments, "-o", sheet, "--reliability", diagram)
    assert code == 0
    assert "pairs" in err
    for text in (
        "model: cva",
        "pairs: 5",
        "pixels counted: 40,000",
        r"IoU of change +0\.\d{4} +0\.\d{4}",
        r"\* the best threshold, chosen on these same pixels: not a fair estimate",
        r"objects \(IoU of 0.5 or more\): 5 of 5 found",
    ):
        assert re.search(text, out), out
    assert out.splitlines()[-2:] == [str(sheet), str(diagram)]
    assert shape_of(sheet)[0] > 750  # three rows
    assert cv2.imread(str(diagram)) is not None
    assert sorted(tmp_path.iterdir()) == [diagram, sheet]

    code, out, err = run(capsys, *arguments, "--json", "-q")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["metrics"]["recall"] > 0.9
    assert sum(report["confusion"].values()) == 40_000
    best = report["best_threshold_on_this_data"]
    assert best["iou_change"] >= report["metrics"]["iou_change"]
    assert 0 <= report["calibration"]["ece"] <= 1
    assert [s["group"] for s in report["samples"]] == ["best", "median", "worst"]
    assert report["area_m2"] is None


def test_threshold_and_bands_reach_the_model(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    _, out, _ = run(capsys, folder, "-m", "cva", "--threshold", "1", "-b", "1,2", "--json", "-q")
    report = json.loads(out)
    assert report["threshold"] == 1
    assert report["confusion"]["tp"] == 0
    assert report["notes"]


def test_a_weights_file_brings_its_own_threshold(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    args = {"n_bands": 3}
    card = {"halo": 16, "multiple": 16, "patch_size": 64, "threshold": 0.25, "name": "mine"}
    path = tmp_path / "mine.safetensors"
    save_weights(path, build_network("tiny", args), "tiny", args, card)
    code, out, _ = run(capsys, folder, "--split", "test", "-m", path, "--json", "-q")
    assert code == 0
    report = json.loads(out)
    assert (report["model"], report["threshold"]) == ("mine", 0.25)
    assert report["pixels"]["counted"] == 40_000
    refused(capsys, 1, r"pair pair_0: expected 3 bands .*", folder, "-m", path, "-b", "1,2")


def test_a_map_against_a_reference(
    capsys: pytest.CaptureFixture[str], scene: dict[str, str], tmp_path: Path
) -> None:
    values = ("--unlabelled", "127", "--change-value", "255")
    found = {}
    for name in ("change.tif", "change.gpkg", "prob.tif"):
        code, out, err = run(capsys, scene[name], scene["truth"], *values, "--json", "-q")
        assert (code, err) == (0, "")
        found[name] = json.loads(out)
        assert found[name]["pixels"]["unlabelled"] == 2000
        assert found[name]["confusion"] == found["change.tif"]["confusion"]
        assert found[name]["objects"] == found["change.tif"]["objects"]
    assert found["change.tif"]["metrics"]["recall"] > 0.9
    assert found["change.tif"]["area_m2"]["true"] == pytest.approx(63_000, rel=2e-3)
    assert found["change.tif"]["calibration"] is None
    assert found["prob.tif"]["calibration"]["ece"] > 0

    sheet = tmp_path / "sheet.png"
    pictures = ("-o", sheet, "--images", scene["t1"], scene["t2"])
    code, out, _ = run(capsys, scene["change.tif"], scene["truth"], *values, *pictures, "-q")
    assert code == 0
    assert re.search(r"area of change: [\d,]+ m2 true", out)
    assert shape_of(sheet)[1] > 900  # three columns
    replacing = ("-o", sheet, "--overwrite", "-q")
    code, _, _ = run(capsys, scene["change.tif"], scene["truth"], *values, *replacing)
    assert code == 0
    assert shape_of(sheet)[1] < 400  # one


def test_pixels_without_prediction_are_said(
    capsys: pytest.CaptureFixture[str],
    scene: dict[str, str],
    tmp_path: Path,
    write_tif: Callable[..., Path],
) -> None:
    part = np.full((80, 100), 255, np.uint8)
    part[:40] = 0
    path = write_tif(tmp_path / "part.tif", part, nodata=255)
    _, out, _ = run(capsys, path, scene["truth"], "--unlabelled", "127", "-q")
    assert "without prediction: 2,000 (33.3 % of the labelled), ignored" in out
    assert "no counted pixel was predicted as change" in out
    options = ("--unlabelled", "127", "--missing-is-no-change", "--json", "-q")
    _, out, _ = run(capsys, path, scene["truth"], *options)
    assert json.loads(out)["pixels"]["without_prediction"] == 0
    assert json.loads(out)["confusion"]["fn"] == 630


def test_wrong_usage_is_one_line(
    capsys: pytest.CaptureFixture[str], folder: Path, scene: dict[str, str], tmp_path: Path
) -> None:
    change, truth = scene["change.tif"], scene["truth"]
    cases = [
        (r"expected a folder of image pairs, .* found only .*change.tif; .*", change),
        (r"expected --like only with a prediction and a truth, .*", folder, "--like", change),
        (r"expected --model only with a folder of image pairs, .*", change, truth, "-m", "cva"),
        (r"expected a raster or vector as prediction .*", folder, truth),
        (r"expected -o SHEET.png with --images, .*", change, truth, "--images", change, change),
        (r"expected a file ending in .png or .geojson .* for -o, .*", change, truth, "-o", "a.tif"),
        (
            r"expected probabilities for --reliability, .*",
            change, truth, "--unlabelled", "127", "--reliability", tmp_path / "r.png",
        ),
        (r"expected a raster of probabilities for --threshold, .*",
         change, truth, "--unlabelled", "127", "--threshold", "0.5"),
    ]  # fmt: skip
    for pattern, *arguments in cases:
        refused(capsys, 2, pattern, *arguments)
    for option in ("--threshold=2", "--threshold=x", "--unlabelled=a"):
        code, _, err = run(capsys, change, truth, option)
        assert code == 2
        assert "found" in err.splitlines()[-1]


def test_what_is_wrong_with_data_is_one_line(
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    scene: dict[str, str],
    tmp_path: Path,
    write_tif: Callable[..., Path],
) -> None:
    change, truth = scene["change.tif"], scene["truth"]
    cases = [
        (r"the truth .*: expected label values .* found 0, 127, 255; .*", change, truth),
        (r"expected a folder for .*, found none at .*", change, truth, "-o", "none/a.png"),
        (r"expected a folder of image pairs, .* found nothing at levir; check the path", "levir"),
        (
            r"expected a readable raster for the truth, .* no file at .*",
            change,
            tmp_path / "no.tif",
        ),
        (r".*split 'val'.*", folder, "--split", "val"),
        (r"expected a model among .*", folder, "-m", "nonesuch"),
    ]
    for pattern, *arguments in cases:
        refused(capsys, 1, pattern, *arguments)
    nothing = write_tif(tmp_path / "nothing.tif", np.zeros((80, 100), np.uint8))
    sheet = tmp_path / "sheet.png"
    refused(capsys, 1, "expected a sample with change .*", nothing, nothing, "-o", sheet)
    assert not sheet.exists()


def test_truth_in_another_crs(
    capsys: pytest.CaptureFixture[str], scene: dict[str, str], tmp_path: Path
) -> None:
    truth = tmp_path / "truth.geojson"
    geopandas.read_file(scene["change.gpkg"], layer="changes").to_crs("EPSG:4326").to_file(truth)
    code, out, _ = run(capsys, scene["change.tif"], truth, "--json", "-q")
    assert code == 0
    assert json.loads(out)["metrics"]["iou_change"] == 1
    assert json.loads(out)["objects"]["object_f1"] == 1


@pytest.mark.parametrize("suffix", ["gpkg", "parquet"])
def test_objects_that_stayed_are_no_change(
    suffix: str,
    tmp_path: Path,
    write_tif: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A layer of `rscd events` lists them by default."""
    houses = [shapely.box(500_000 + x, 4_999_900, 500_050 + x, 4_999_950) for x in (0, 100, 200)]
    layers = [tmp_path / "t1.gpkg", tmp_path / "t2.gpkg"]
    for layer, some in zip(layers, (houses[:2], houses[1:]), strict=True):
        geopandas.GeoDataFrame(geometry=some, crs="EPSG:32633").to_file(layer)
    events = tmp_path / f"events.{suffix}"
    assert main(["events", *map(str, layers), "-o", str(events), "-q"]) == 0
    capsys.readouterr()
    truth = np.zeros((80, 100), np.uint8)
    truth[5:10, 0:5] = truth[5:10, 20:25] = 1
    reference = write_tif(tmp_path / "truth.tif", truth)
    right = {"tp": 50, "fp": 0, "fn": 0, "tn": 8000 - 50}
    for pair in ((events, reference), (reference, events)):
        code, out, err = run(capsys, *pair, "--json")
        assert code == 0
        assert json.loads(out)["confusion"] == right
        assert "1 of 3 polygons are of the kind kept and no change" in err


def test_rejected_polygons_count_and_are_said(
    tmp_path: Path, write_tif: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    house = shapely.box(500_000, 4_999_900, 500_050, 4_999_950)
    truth = write_tif(tmp_path / "truth.tif", np.zeros((80, 100), np.uint8))
    for words, said in ((["accepted", "rejected"], True), (["accepted", "unsure"], False)):
        layer = tmp_path / f"{words[1]}.gpkg"
        table = {"status": words, "geometry": [house, house]}
        geopandas.GeoDataFrame(table, crs="EPSG:32633").to_file(layer)
        code, out, err = run(capsys, layer, truth, "--json")
        assert code == 0
        assert json.loads(out)["confusion"]["fp"] == 25
        assert ("1 of 2 polygons were rejected in a review and count as change" in err) == said


def test_another_column_kind_means_nothing(
    tmp_path: Path, write_tif: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    house = shapely.box(500_000, 4_999_900, 500_050, 4_999_950)
    table = {"kind": ["kept", "shed"], "geometry": [house, house]}
    layer = tmp_path / "own.gpkg"
    geopandas.GeoDataFrame(table, crs="EPSG:32633").to_file(layer)
    truth = write_tif(tmp_path / "truth.tif", np.zeros((80, 100), np.uint8))
    code, out, _ = run(capsys, layer, truth, "--json")
    assert code == 0
    assert json.loads(out)["confusion"]["fp"] == 25


def test_conditions_of_a_street_set_are_measured_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = np.zeros((80, 100), np.uint8)
    label[CHANGED] = 255
    for condition, seed in (("bright", 1), ("dim", 2)):
        t1, t2 = (np.moveaxis(date, 0, 2) for date in images(seed))
        if condition == "dim":
            t2 = t1  # nothing to be seen
        for name, array in (("t0", t1), ("t1", t2), ("mask", label)):
            path = tmp_path / "set" / condition / name / "0.png"
            path.parent.mkdir(parents=True)
            assert cv2.imwrite(str(path), array)
    code, out, _ = run(capsys, tmp_path / "set", "-m", "cva", "--json", "-q")
    assert code == 0
    found = json.loads(out)
    assert found["pairs"] == 2
    assert found["conditions"]["bright"]["recall"] > 0.9
    assert found["conditions"]["dim"]["recall"] == 0
    assert found["metrics"]["recall"] == pytest.approx(
        found["conditions"]["bright"]["recall"] / 2, rel=1e-6
    )
    code, out, _ = run(capsys, tmp_path / "set", "-m", "cva", "-q", "--size", "40,50")
    assert code == 0
    assert "pixels counted: 4,000" in out
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ["bright", "dim"]
    code, out, _ = run(capsys, tmp_path / "set" / "dim", "-m", "cva", "-q", "--json")
    assert code == 0
    assert json.loads(out)["conditions"] == {}


def test_options_of_street_sets_and_of_others(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, 2, r".*--size only with a street set.*", folder, "--size", "40,50")
    for name in ("t0", "t1", "mask"):
        (tmp_path / name).mkdir()
        assert cv2.imwrite(str(tmp_path / name / "0.png"), np.zeros((9, 9, 3), np.uint8))
    refused(
        capsys, 2, r".*--bands only with pairs that are not of streets.*", tmp_path, "--bands", "1"
    )
    refused(capsys, 1, r".*no split .* found 'test'.*", tmp_path, "--split", "test")
    code, _, err = run(capsys, folder, "--size", "0,5")
    assert code == 2
    assert "expected HEIGHT,WIDTH in pixels, found '0,5'" in err


def test_pictures_replace_nothing_unasked(
    capsys: pytest.CaptureFixture[str], folder: Path, scene: dict[str, str], tmp_path: Path
) -> None:
    pair = folder / "test" / "A" / "pair_0.png"
    before = pair.read_bytes()
    for more in ((), ("--overwrite",)):
        for option in ("-o", "--reliability"):
            pattern = "expected an output beside the inputs, .*pair_0.png itself.*"
            refused(capsys, 1, pattern, folder, "--split", "test", "-m", "cva", option, pair, *more)
    assert pair.read_bytes() == before
    there = tmp_path / "sheet.png"
    there.write_text("mine")
    maps = (scene["change.tif"], scene["truth"], "--unlabelled", "127", "--change-value", "255")
    refused(capsys, 1, r".*sheet\.png already there; add --overwrite", *maps, "-o", there)
    refused(capsys, 2, ".*one named twice.*", *maps, "-o", there, "--reliability", there)
    assert run(capsys, *maps, "-o", there, "--overwrite")[0] == 0
    assert there.read_bytes()[:4] == b"\x89PNG"


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory, buildings: Path) -> Path:
    """A town as a folder of one pair of GeoTIFFs, and what ``rscd predict`` writes for it."""
    root = tmp_path_factory.mktemp("town")
    sample = ["sample", "-o", str(root / "s"), "--size", "256,256", "--seed", "5", "-q"]
    assert main(sample) == 0
    for folder_name, file in (("A", "scene_t1"), ("B", "scene_t2"), ("label", "truth_mask")):
        (root / "data" / folder_name).mkdir(parents=True)
        shutil.copy(root / "s" / f"{file}.tif", root / "data" / folder_name / "town.tif")
    pair = [str(root / "data" / date / "town.tif") for date in "AB"]
    for name, more in (("own", []), ("all", ["--min-area", "0", "--min-score", "0"])):
        command = ["predict", *pair, "-o", str(root / f"{name}.gpkg"), "-q", *more]
        command += ["-m", str(buildings)]
        command += ["--no-regularize"]  # pixels are evaluated
        assert main([*command, "-o", str(root / f"{name}.tif")]) == 0
    return root


def kinds(layer: geopandas.GeoDataFrame) -> dict[str, int]:
    found = layer["kind"].value_counts()
    return {kind: int(found.get(kind, 0)) for kind in ("true", "false", "missed")}


def expected_kinds(objects: dict[str, float]) -> dict[str, float]:
    matched = objects["matched"]
    return {
        "true": matched,
        "false": objects["predicted"] - matched,
        "missed": objects["true"] - matched,
    }


def shapes(layer: geopandas.GeoDataFrame) -> set[bytes]:
    return {shape.normalize().wkb for shape in layer.geometry.to_numpy()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"), [("own", ()), ("all", ("--min-area", 0, "--min-score", 0))]
)
def test_objects_are_the_polygons_that_predict_writes(
    capsys: pytest.CaptureFixture[str],
    town: Path,
    buildings: Path,
    tmp_path: Path,
    name: str,
    more: tuple[str | int, ...],
) -> None:
    layer = tmp_path / "errors.gpkg"
    data = (town / "data", "-m", buildings)
    code, out, _ = run(capsys, *data, *more, "--json", "-q", "-o", layer)
    assert code == 0
    delivered = geopandas.read_file(town / f"{name}.gpkg")
    report = json.loads(out)
    assert report["objects"]["predicted"] == len(delivered)
    assert report["objects"]["min_area_m2"] == (14 if name == "own" else 0)
    errors = geopandas.read_file(layer)
    assert kinds(errors) == expected_kinds(report["objects"])
    assert errors.crs == delivered.crs
    found = errors[errors["kind"] != "missed"]
    assert shapes(found) == shapes(delivered)
    assert sorted(found["score"]) == pytest.approx(sorted(delivered["score"]), abs=2e-4)
    assert sorted(found["area_m2"]) == pytest.approx(sorted(delivered["area_m2"]), rel=1e-6)
    assert (errors["iou"].dropna() >= 0.5).all()
    assert errors["iou"].notna().sum() == report["objects"]["matched"]


def test_what_predict_leaves_out_is_no_object_but_stays_in_the_pixels(
    capsys: pytest.CaptureFixture[str], town: Path, buildings: Path
) -> None:
    data = (town / "data", "-m", buildings)
    own, whole = (
        json.loads(run(capsys, *data, *more, "--json", "-q")[1])
        for more in ((), ("--min-area", 0, "--min-score", 0))
    )
    assert own["objects"]["predicted"] < whole["objects"]["predicted"]
    assert own["confusion"] == whole["confusion"]
    _, out, _ = run(capsys, *data, "-q")
    assert "predicted of at least 14 m2 and score 0.7" in out


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".parquet"])
def test_the_objects_of_a_map_as_a_layer(
    capsys: pytest.CaptureFixture[str], scene: dict[str, str], tmp_path: Path, suffix: str
) -> None:
    layer = tmp_path / f"errors{suffix}"
    arguments = (scene["change.tif"], scene["truth"], "--unlabelled", 127)
    code, out, _ = run(capsys, *arguments, "--json", "-q", "-o", layer)
    assert code == 0
    read = geopandas.read_parquet if suffix == ".parquet" else geopandas.read_file
    errors = read(layer)
    assert kinds(errors) == expected_kinds(json.loads(out)["objects"])
    wanted = "EPSG:4326" if suffix == ".geojson" else "EPSG:32633"
    assert errors.crs == wanted
    refused(capsys, 1, f"expected a new file, found .*errors{suffix}.*", *arguments, "-o", layer)
    assert run(capsys, *arguments, "-q", "-o", layer, "--overwrite")[0] == 0


def test_the_objects_of_pictures_lie_in_pixels_by_name(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    layer = tmp_path / "errors.gpkg"
    sheet = tmp_path / "sheet.png"
    arguments = ("--split", "test", "-m", "cva", "--json", "-q", "-o", layer, "-o", sheet)
    code, out, _ = run(capsys, folder, *arguments)
    assert code == 0
    errors = geopandas.read_file(layer)
    assert kinds(errors) == expected_kinds(json.loads(out)["objects"])
    assert errors.crs is None
    assert set(errors["name"]) == {f"pair_{i}" for i in range(5)}
    assert cv2.imread(str(sheet)) is not None


def test_a_damaged_pair_is_left_out_and_named(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "data")
    for damaged in ("A/pair_0.png", "label/pair_3.png"):
        (tmp_path / "data" / "test" / damaged).write_bytes(b"no picture")
    code, out, err = run(capsys, tmp_path / "data", "--split", "test", "-m", "cva", "--json", "-q")
    assert code == 1
    report = json.loads(out)
    assert list(report["failed"]) == ["pair_0", "pair_3"]
    assert report["pairs"] == 3
    assert "found 2 that failed: pair_0, pair_3" in err.splitlines()[-1]
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "data", whole)
    for kind in ("A", "B", "label"):
        for number in (0, 3):
            (whole / "test" / kind / f"pair_{number}.png").unlink()
    rest = json.loads(run(capsys, whole, "--split", "test", "-m", "cva", "--json", "-q")[1])
    assert rest["confusion"] == report["confusion"]
    assert rest["objects"] == report["objects"]
    for number in range(5):
        (tmp_path / "data" / "test" / "B" / f"pair_{number}.png").write_bytes(b"no picture")
    code, out, err = run(capsys, tmp_path / "data", "--split", "test", "-m", "cva", "-q")
    assert (code, out) == (1, "")
    assert "pair_0.png: cannot be read" in err.splitlines()[-1]


def test_evaluations_fill_the_rows_of_a_table(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    for model in ("cva", "pca-kmeans"):
        code, out, _ = run(
            capsys, folder, "--split", "test", "-m", model, "--rows", rows, "--row", model, "-q"
        )
        assert code == 0
    assert out.splitlines()[-1] == str(rows)
    with rows.open() as file:
        found = list(csv.DictReader(file))
    assert [row["row"] for row in found] == ["cva"] * 3 + ["pca-kmeans"] * 3
    _, out, _ = run(capsys, folder, "--split", "test", "-m", "cva", "--json", "-q")
    report = json.loads(out)
    for row, part in zip(
        found[:3],
        (report["at_protocol_threshold"], report["metrics"], report["best_threshold_on_this_data"]),
        strict=True,
    ):
        assert float(row["f1_macro"]) == pytest.approx(part["f1_macro"], abs=1e-6)
    refused(capsys, 2, "expected --rows .* and --row NAME together.*", folder, "--row", "x")
    refused(capsys, 2, r"expected a file ending in \.csv for --rows.*", folder, "--row", "x",
            "--rows", "x.json")  # fmt: skip


def test_the_flip_of_maps_is_the_one_that_is_named(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    arguments = {"encoder": "tu-test_resnet", "output_stride": 16, "combination": "cat"}
    weights = tmp_path / "cam.safetensors"
    card = {"halo": 16, "multiple": 16, "patch_size": 64, "threshold": 0.5}
    save_weights(weights, build_network("cam", arguments), "cam", arguments, card)
    model = (folder, "--split", "test", "-m", weights)
    for maps in ("msi", "mi"):
        found = [
            run(capsys, *model, "--maps", maps, "--msi", "1", *flip, "--json")[1]
            for flip in ((), ("--flip", "width"), ("--flip", "height"))
        ]
        assert found[0] == found[1] != found[2], maps
    unused = ".*expected --flip with --msi or --tta, found neither.*"
    for more in ((), ("--maps", "cam"), ("--maps", "single")):
        refused(capsys, 2, unused, *model, *more, "--flip", "height")
    assert main(["predict", "a.tif", "b.tif", "-o", str(tmp_path / "c.tif"), "--flip", "none"]) == 2
    assert re.fullmatch(f"rscd: {unused}\n", capsys.readouterr().err)
