"""What the commands leave on disk, beside what lay there."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy

from rscd.cli import main
from rscd.export import raster

PAM = (
    "<PAMDataset><SRS>EPSG:3857</SRS><GeoTransform>0,1,0,0,0,-1</GeoTransform>"
    '<PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MAXIMUM">0.01</MDI></Metadata>'
    "</PAMRasterBand></PAMDataset>"
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, write_tif: Callable[..., Path]) -> list[str]:
    folder = tmp_path_factory.mktemp("scene")
    rng = np.random.default_rng(0)
    t1 = rng.integers(60, 90, (3, 64, 64)).astype(np.uint8)
    t2 = t1.copy()
    t2[:, 20:40, 20:40] += 120
    return [str(write_tif(folder / f"{name}.tif", a)) for name, a in (("t1", t1), ("t2", t2))]


def predict(scene: list[str], folder: Path, *more: Any, outputs: tuple[str] = ("c.tif",)) -> int:
    named = [word for name in outputs for word in ("-o", str(folder / name))]
    return main(["predict", *scene, "-m", "cva", "-q", *named, *map(str, more)])


def files(folder: Path) -> dict[str, Any]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def beside(folder: Path, name: str) -> None:
    """What QGIS, ArcGIS and gdaladdo leave beside a raster, and SQLite beside a database."""
    (folder / f"{name}.aux.xml").write_text(PAM)
    for suffix in (".msk", ".ovr"):
        with rasterio.open(
            folder / f"{name}{suffix}", "w", driver="GTiff", count=1, height=64, width=64,
            dtype="uint8", crs="EPSG:3857", transform=rasterio.Affine(1, 0, 0, 0, -1, 0),
        ) as dataset:  # fmt: skip
            dataset.update_tags(INTERNAL_MASK_FLAGS_1="2")
    for suffix in ("-wal", "-journal"):
        (folder / f"{name}{suffix}").write_bytes(b"left over" * 50)


@pytest.mark.parametrize("outputs", [("c.tif",), ("c.gpkg",), ("c.geojson",), ("c.png",)])
def test_a_result_reads_the_same_whatever_lay_beside_what_it_replaces(
    scene: list[str], tmp_path: Path, outputs: tuple[str]
) -> None:
    assert predict(scene, tmp_path, outputs=outputs) == 0
    wanted = files(tmp_path)
    (tmp_path / outputs[0]).write_bytes(b"old")
    beside(tmp_path, outputs[0])
    (tmp_path / "notes.txt").write_text("mine")
    assert predict(scene, tmp_path, "--overwrite", outputs=outputs) == 0
    assert files(tmp_path) == wanted | {"notes.txt": b"mine"}


def test_sidecars_alone_are_not_taken_along(
    scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.tif.aux.xml").write_text(PAM)
    before = files(tmp_path)
    assert predict(scene, tmp_path) == 1
    assert "c.tif.aux.xml of an older file; add --overwrite" in capsys.readouterr().err
    assert files(tmp_path) == before
    assert predict(scene, tmp_path, "--overwrite") == 0
    assert "c.tif.aux.xml" not in files(tmp_path)


def test_a_run_that_fails_has_removed_nothing(
    scene: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert predict(scene, tmp_path, outputs=("c.tif",)) == 0
    beside(tmp_path, "c.tif")
    before = files(tmp_path)
    calls: list[Any] = []

    def full(*args: Any, **keywords: Any) -> None:
        calls.append(args)
        if len(calls) == 2:  # the first is the rehearsal
            raise OSError(28, "No space left on device")
        copy(*args, **keywords)

    monkeypatch.setattr(raster, "copy", full)
    assert predict(scene, tmp_path, "--overwrite", "--threshold", "0.9") == 1
    assert "the computed part is kept in" in capsys.readouterr().err
    assert files(tmp_path) == before


def test_a_package_that_is_open_elsewhere_is_refused_before_the_work(
    scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(scene, tmp_path, outputs=("c.gpkg",)) == 0
    database = sqlite3.connect(tmp_path / "c.gpkg", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("UPDATE gpkg_contents SET description = 'new'")
    before = files(tmp_path)
    assert predict(scene, tmp_path, "--overwrite", outputs=("c.gpkg",)) == 1
    assert "open in another program" in capsys.readouterr().err
    assert files(tmp_path).keys() == before.keys()
    assert files(tmp_path)["c.gpkg"] == before["c.gpkg"]
    database.close()
    assert predict(scene, tmp_path, "--overwrite", outputs=("c.gpkg",)) == 0


@pytest.mark.parametrize(
    "option",
    ["COMPRESS=JPEG", "COMPRESS=WEBP", "TARGET_SRS=EPSG:99999", "TILING_SCHEME=Nope", "NO=1"],
)
def test_creation_options_that_gdal_refuses_are_wrong_usage(
    scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert predict(scene, tmp_path, "--co", option) == 2
    said = capsys.readouterr().err
    assert said.startswith("rscd: expected creation options")
    assert said.count("\n") == 1
    assert "--co" in said
    assert files(tmp_path) == {}


@pytest.mark.parametrize("option", ["TARGET_SRS=EPSG:4326", "TILING_SCHEME=GoogleMapsCompatible"])
def test_probabilities_stay_between_0_and_1_on_another_grid(
    scene: list[str], tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prob = tmp_path / "p.tif"
    assert predict(scene, tmp_path, "--co", option, "--prob", prob) == 0
    with rasterio.open(prob) as dataset:
        values = dataset.read(1)
        assert np.nanmin(values) >= 0
        assert np.nanmax(values) <= 1
        assert np.nanmax(values) > 0.5
    with rasterio.open(tmp_path / "c.tif") as dataset:
        assert set(np.unique(dataset.read(1))) <= {0, 1, 255}
    capsys.readouterr()
    assert main(["evaluate", str(prob), str(tmp_path / "c.tif"), "-q", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_resampling_that_leaves_the_range_is_refused(
    scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--prob", tmp_path / "p.tif", "--co", "RESAMPLING=CUBIC")
    assert predict(scene, tmp_path, *more) == 2
    assert "between 0 and 1" in capsys.readouterr().err
    assert files(tmp_path) == {}


def test_lossy_compression_may_be_asked_for_probabilities(scene: list[str], tmp_path: Path) -> None:
    options = ("--co", "COMPRESS=LERC", "--co", "MAX_Z_ERROR=0.01")
    exact, rough = tmp_path / "exact.tif", tmp_path / "rough.tif"
    assert predict(scene, tmp_path, "--prob", exact, outputs=("a.png",)) == 0
    assert predict(scene, tmp_path, "--prob", rough, *options, outputs=("b.png",)) == 0
    with rasterio.open(exact) as one, rasterio.open(rough) as two:
        assert 0 < np.abs(one.read(1) - two.read(1)).max() <= 0.0101


def test_samples_take_nothing_along_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sample", "-o", str(tmp_path / "s"), "--size", "32,32", "-q"]
    assert main(command) == 0
    wanted = files(tmp_path / "s")
    (tmp_path / "s" / "scene_t1.tif.aux.xml").write_text(PAM)
    assert main([*command, "--overwrite"]) == 0
    assert files(tmp_path / "s") == wanted
    for name in wanted:
        (tmp_path / "s" / name).unlink()
    (tmp_path / "s" / "scene_t1.tif.aux.xml").write_text(PAM)
    assert main(command) == 1
    assert "scene_t1.tif.aux.xml" in capsys.readouterr().err


def test_what_lies_beside_a_replaced_preview(
    scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look = tmp_path / "look.png"
    assert predict(scene, tmp_path, "--preview", look) == 0
    wanted = files(tmp_path)
    beside(tmp_path, "look.png")
    (tmp_path / "look.pgw").write_text("1\n0\n0\n-1\n777000\n888000\n")
    (tmp_path / "look.qml").write_text("<qgis>of the user</qgis>")
    assert predict(scene, tmp_path, "--preview", look, "--overwrite") == 0
    # a style is the user's and moves no pixel; what georeferences or masks the picture goes
    assert files(tmp_path) == wanted | {"look.qml": b"<qgis>of the user</qgis>"}
    with rasterio.open(look) as dataset:
        assert dataset.crs is None
        assert dataset.transform.is_identity
