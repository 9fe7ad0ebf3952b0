"""Every fault is put into a good pair, and named; a good pair has none."""

import importlib.util
import json
import logging
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from rscd import Options, open_pair
from rscd.base.errors import RscdError, UsageError
from rscd.geo.source import close_handles
from rscd.inference.detectors.registry import DETECTORS
from rscd.inference.near_infrared import TRUE_COLOUR
from rscd.pipeline.doctor import Report, diagnose, measure
from rscd.pipeline.faults import KINDS, faults_of_pixels
from tests.conftest import Web

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "doctor.py"
SIDE = 448
CVA = Options(model="cva")
CVA_MODEL = DETECTORS["cva"]


def _benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_doctor", BENCHMARK)
    assert spec is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


injected = _benchmark()


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_handles()


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return injected.good_pair(3, SIDE)


def written(pair: Sequence[Any], folder: Path) -> tuple[Path, Path]:
    t1, t2 = pair
    return t1.write(folder / "t1.tif"), t2.write(folder / "t2.tif")


def kinds(report: Report) -> set[Any]:
    return {one.kind for one in report.findings}


def test_a_good_pair_has_no_finding(pair: tuple[Any, Any], tmp_path: Path) -> None:
    paths = written(pair, tmp_path)
    before = sorted(tmp_path.iterdir())
    report = diagnose(*paths, CVA)
    assert report.findings == ()
    assert report.exit_code == 0
    assert sorted(tmp_path.iterdir()) == before  # nothing is written
    assert report.between["shift"]["cols"] == pytest.approx(0, abs=0.3)
    assert report.predict is not None
    assert report.predict["model"] == "cva"
    assert report.predict["memory_bytes"] > 0
    assert report.command is not None
    assert report.command.startswith("rscd predict")
    assert "--register" not in report.command
    assert json.loads(json.dumps(report.data))["exit_code"] == 0


@pytest.mark.parametrize("kind", injected.FAULTS)
def test_a_fault_is_named(pair: tuple[Any, Any], tmp_path: Path, kind: str) -> None:
    report = injected.examine(injected.FAULTS[kind](*pair), tmp_path)
    assert kinds(report) == {kind}
    [found] = report.findings
    assert found.level == KINDS[kind][0]
    assert report.exit_code == {"stops": 1, "doubt": 3, "note": 0}[found.level]
    assert (report.predict is None) == (found.level == "stops")
    if found.mend.startswith("--"):
        assert found.mend in report.command


@pytest.mark.parametrize(
    "kind", [kind for kind in injected.FAULTS if KINDS[kind][0] == "stops" and kind != "unreadable"]
)
def test_it_says_what_predict_says(pair: tuple[Any, Any], tmp_path: Path, kind: str) -> None:
    scenes = injected.FAULTS[kind](*pair)
    report = injected.examine(scenes, tmp_path)
    with pytest.raises(RscdError) as raised:
        CVA.days(open_pair(tmp_path / "t1.tif", tmp_path / "t2.tif", CVA))
    assert report.findings[0].text == str(raised.value)


@pytest.mark.parametrize("kind", ["shift", "large-shift", "distortion", "undeclared-nodata"])
def test_what_it_advises_helps(pair: tuple[Any, Any], tmp_path: Path, kind: str) -> None:
    from rscd.geo.register import register

    report = injected.examine(injected.FAULTS[kind](*pair), tmp_path)
    [found] = report.findings
    option, value = found.mend.split()
    options = Options(model="cva", src_nodata=float(value) if option == "--src-nodata" else None)
    opened = open_pair(tmp_path / "t1.tif", tmp_path / "t2.tif", options)
    if option == "--register":
        opened, _ = register(opened, value, "t1")
    again = measure(opened)
    assert set() == {one.kind for one in faults_of_pixels(opened, again)} & {kind}
    close_handles()


def test_a_cloud_over_half_a_pair_is_a_cloud(pair: tuple[Any, Any], tmp_path: Path) -> None:
    """Ragged, of uneven brightness, and what it leaves is darker than at the other date."""
    height, width = pair[1].image.shape[1:]
    rows, cols = np.mgrid[:height, :width]
    edge = 0.55 * width + 30 * np.sin(rows / 37) + 18 * np.sin(rows / 11)
    cover = np.clip((edge - cols) / 90, 0, 1)
    white = 215 + 20 * np.sin(rows / 60) * np.cos(cols / 80)
    image = injected._as(0.8 * pair[1].image * (1 - cover) + white * cover)
    report = injected.examine((pair[0], replace(pair[1], image=image)), tmp_path)
    assert kinds(report) == {"cloud"}
    assert report.exit_code == 3
    assert 0.2 < report.between["veiled"][1] < 0.6


def test_what_is_filled_is_no_cloud_and_its_value_is_told_exactly(
    pair: tuple[Any, Any], tmp_path: Path
) -> None:
    height, width = pair[1].image.shape[1:]
    white = pair[1].image.copy()
    white[:, : height // 3, : width // 3] = 255
    report = injected.examine((pair[0], replace(pair[1], image=white)), tmp_path)
    assert kinds(report) == {"undeclared-nodata"}
    assert report.findings[0].mend == "--src-nodata 255"
    odd = pair[1].image.astype(np.float32)
    odd[:, : height // 3, : width // 3] = -12345.678
    first = replace(pair[0], image=pair[0].image.astype(np.float32))
    report = injected.examine((first, replace(pair[1], image=odd)), tmp_path)
    [found] = [one for one in report.findings if one.kind == "undeclared-nodata"]
    assert np.float32(found.mend.split()[1]) == np.float32(-12345.678)
    assert float(found.mend.split()[1]) == float(np.float32(-12345.678))


def test_faults_that_depend_on_options_and_model(pair: tuple[Any, Any], tmp_path: Path) -> None:
    t1, t2 = pair
    moved = replace(t2, profile={"transform": injected.HALF_METRE @ Affine.translation(0.4, 0)})
    paths = written((t1, moved), tmp_path)
    assert kinds(diagnose(*paths, Options(model="cva", align="none"))) == {"two-grids"}
    paths = written((replace(t1, image=t1.image[:1]), replace(t2, image=t2.image[:1])), tmp_path)
    assert kinds(diagnose(*paths, Options(model="irmad"))) == {"one-band"}
    apart = replace(
        t2, profile={"transform": injected.HALF_METRE @ Affine.translation(SIDE - 30, 0)}
    )
    assert "small-overlap" in kinds(diagnose(*written((t1, apart), tmp_path), CVA))
    flat = replace(t2, profile={"transform": Affine(1, 0, 5, 0, 0, 5)})
    assert kinds(diagnose(*written((t1, flat), tmp_path), CVA)) == {"degenerate-transform"}


def test_near_infrared_is_named_as_predict_warns_of_it(
    pair: tuple[Any, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(CVA_MODEL, "card", lambda self: {"name": "cva", "bands": TRUE_COLOUR})
    tagged = [replace(scene, colours=("nir", "red", "green")) for scene in pair]
    report = diagnose(*written(tagged, tmp_path), CVA)
    assert kinds(report) == {"near-infrared"}
    assert report.exit_code == 3
    assert "near infrared" in report.findings[0].text
    assert not caplog.text  # said once, in the report


def test_every_kind_is_tested() -> None:
    elsewhere = {
        "near-infrared",
        "one-band",
        "two-grids",
        "small-overlap",
        "degenerate-transform",
        "tiny",
    }
    assert set(KINDS) == set(injected.FAULTS) | elsewhere


def test_wrong_usage_is_no_finding(pair: tuple[Any, Any], tmp_path: Path) -> None:
    paths = written(pair, tmp_path)
    with pytest.raises(UsageError, match="--gsd"):
        diagnose(*paths, CVA, gsd_m=3.0)


def test_a_file_that_is_missing_and_one_that_is_not(pair: tuple[Any, Any], tmp_path: Path) -> None:
    path, _ = written(pair, tmp_path)
    report = diagnose(path, tmp_path / "none.tif", CVA)
    assert kinds(report) == {"unreadable"}
    assert report.dates is not None
    assert report.dates["t1"] is not None
    assert report.dates["t1"]["dtype"] == ["uint8"]
    assert report.dates["t2"] is None


def test_of_a_large_scene_few_pixels_are_read(
    tmp_path: Path, write_tif: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A raster of a hundred million pixels of which nothing but a corner is stored."""
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "width": 10_000, "height": 10_000}
    profile |= {"tiled": True, "sparse_ok": True, "crs": "EPSG:32633"}
    for name in ("t1", "t2"):
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", transform=injected.HALF_METRE, **profile
        ) as dataset:
            corner = np.random.default_rng(0).integers(1, 255, (3, 256, 256)).astype(np.uint8)
            dataset.write(corner, window=((0, 256), (0, 256)))
    pair = open_pair(tmp_path / "t1.tif", tmp_path / "t2.tif", CVA)
    read: list[Any] = []
    whole = type(pair).context

    def noted(self: Any, box: Any) -> Any:
        read.append(box)
        return whole(self, box)

    monkeypatch.setattr(type(pair), "context", noted)
    measure(pair)
    assert sum(box.height * box.width for box in read) < 1_600_000


def test_other_loggers_and_handlers_are_as_before(pair: tuple[Any, Any], tmp_path: Path) -> None:
    logger = logging.getLogger("rscd")
    handler = logging.NullHandler()
    logger.handlers = [handler]
    logger.setLevel(logging.ERROR)
    diagnose(tmp_path / "a.tif", tmp_path / "b.tif", CVA)
    assert logger.handlers == [handler]
    assert logger.level == logging.ERROR
    assert logger.propagate


def test_addresses_are_looked_at_as_files_are(pair: tuple[Any, Any], web: Web) -> None:
    for number, scene in enumerate(pair, 1):
        scene.write(web.folder / f"t{number}.tif")
    report = diagnose(web.at("t1.tif"), web.at("t2.tif"), CVA)
    assert report.findings == ()
    gone = diagnose(web.at("t1.tif"), web.at("none.tif"), CVA)
    assert gone.exit_code == 1


def as_items(folder: Path, pair: tuple[Any, Any]) -> tuple[Path, Path]:
    """Both dates as STAC items: one asset of three bands, and a picture that is no data."""
    for number, path in enumerate(written(pair, folder), 1):
        bands = [{"name": name, "eo:common_name": name} for name in ("red", "green", "blue")]
        image = {"href": path.name, "type": "image/tiff; application=geotiff", "bands": bands}
        assets = {"image": image | {"roles": ["data"]}, "visual": image | {"roles": ["visual"]}}
        item = {
            **{"type": "Feature", "stac_version": "1.1.0", "id": f"t{number}", "geometry": None},
            **{"properties": {"datetime": f"20{17 + number}-05-01T10:00:00Z"}, "links": []},
        }
        path.with_suffix(".json").write_text(json.dumps(item | {"assets": assets}))
    return folder / "t1.json", folder / "t2.json"


@pytest.mark.parametrize("asset", ["", "#image"])
def test_items_are_looked_at_as_files_are(
    pair: tuple[Any, Any], tmp_path: Path, asset: str
) -> None:
    t1, t2 = as_items(tmp_path, pair)
    report = diagnose(f"{t1}{asset}", f"{t2}{asset}", CVA)
    assert report.findings == ()
    assert report.exit_code == 0
    assert report.dates is not None
    assert [about["date"] for about in report.dates.values() if about is not None] == [
        "2018:05:01 10:00:00",
        "2019:05:01 10:00:00",
    ]
    assert f"{t1}{asset}" in shlex.split(report.command)


def test_faults_of_items(pair: tuple[Any, Any], tmp_path: Path) -> None:
    t1, t2 = as_items(tmp_path, pair)
    assert kinds(diagnose(t2, t1, CVA)) == {"dates-reversed"}
    for wrong in ("#other", "#image#more"):
        report = diagnose(t1, f"{t2}{wrong}", CVA)
        assert report.exit_code == 1
        assert str(t2) in report.findings[0].text
    t2.write_text('{"type": "Feature"')
    assert diagnose(t1, t2, CVA).exit_code == 1


def test_of_a_few_pixels_nothing_is_said_and_it_says_so(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    paths = tmp_path / "t1.tif", tmp_path / "t2.tif"
    for number, path in enumerate(paths):
        pixels = np.arange(6, dtype=np.float32).reshape(1, 2, 3) + number
        pixels[0, 0, 0] = np.nan
        write_tif(path, pixels, nodata=np.nan)
    report = diagnose(*paths, CVA)
    assert kinds(report) == {"tiny"}
    assert report.exit_code == 0
    json.dumps(report.data, allow_nan=False)
    assert report.data["dates"]["t1"]["nodata"] == "nan"


def test_the_command_repeats_what_was_given(pair: tuple[Any, Any], tmp_path: Path) -> None:
    from rscd.geo.area import Area

    paths = written(pair, tmp_path)
    area = Area.from_text("500010,4999900,500100,4999990", "EPSG:32633")
    options = Options(model="cva", t1_date="2019-05-01", t2_date="2020-05-01")
    words = shlex.split(diagnose(*paths, options, area).command)
    assert "--bbox=500010,4999900,500100,4999990" in words
    for option, value in (("--bbox-crs", "EPSG:32633"), ("--t2-date", "2020-05-01")):
        assert words[words.index(option) + 1] == value


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("RGBA.uint16", {"blank"}),
        ("inverted_lat", {"mostly-nodata"}),
        ("cog_gcps", {"not-rectified"}),
        ("float_nan", {"tiny"}),
        ("rotated", {"tiny"}),
        ("au-3577-rotated", set()),
        ("cog_tags", set()),
    ],
)
def test_odd_rasters(realdata: Path, tmp_path: Path, name: str, found: set[Any]) -> None:
    path = realdata / "geotiff" / "odd" / f"{name}.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copy = injected.darker(path, tmp_path / "t2.tif")
    report = diagnose(path, copy, CVA)
    assert kinds(report) == found
    json.dumps(report.data, allow_nan=False)


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(
    ("split", "name", "found"),
    [
        ("train", "AOI1-tile_1-4", {"cloud"}),  # a fifth, and the town beside it has changed
        ("train", "AOI1-tile_1-3", {"cloud"}),
        ("test", None, set()),
    ],
)
def test_clouds_over_real_pairs(
    realdata: Path, split: str, name: str | None, found: set[str]
) -> None:
    folder = realdata / "idabd" / split
    [t1] = folder.glob(f"A/{name or '*'}.png")
    assert kinds(diagnose(t1, folder / "B" / t1.name, CVA)) == found


@pytest.mark.slow
@pytest.mark.realdata
def test_real_pairs_that_are_fine_are_not_doubted(realdata: Path) -> None:
    geotiffs = realdata / "geotiff"
    pairs = [
        *((a, a.with_name(a.name.replace("_A", "_B"))) for a in geotiffs.glob("fotbcd/*_A.tif")),
        (geotiffs / "landsat-taizhou/A_2000TM.tif", geotiffs / "landsat-taizhou/B_2003TM.tif"),
    ]
    for t1, t2 in pairs:
        report = diagnose(t1, t2, CVA)
        assert report.exit_code == 0
        assert kinds(report) <= ({"shift"} if "val_142" in t1.name else set())


def test_the_page_lists_every_kind() -> None:
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    for kind, (level, about) in KINDS.items():
        assert f"| `{kind}` | {level} | {about} |" in page
