"""Commands whose rasters and results are at addresses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from rscd.base.errors import OutputError, RemoteError
from rscd.cli import main
from rscd.export import targets as targets_module
from rscd.export.upload import upload
from rscd.geo import scene as scene_module
from rscd.geo.source import read_source
from rscd.pipeline import maps
from tests.conftest import Web

SIDE = 384
COG = {"driver": "COG", "compress": "deflate", "blocksize": 128}


@pytest.fixture
def scene(
    web: Web, write_tif: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Web:
    """Two dates on the server, `SIDE` pixels wide."""
    rng = np.random.default_rng(0)
    first = rng.integers(20, 200, (3, SIDE, SIDE)).astype(np.uint8)
    second = first.copy()
    second[:, 150:170, 150:180] = 255
    write_tif(web.folder / "t1.tif", first, **COG)
    write_tif(web.folder / "t2.tif", second, **COG)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return web


def predict(scene: Web, *args: str | Path, mode: str = "ok") -> int:
    dates = [scene.at(name, mode) for name in ("t1.tif", "t2.tif")]
    return main(["predict", *dates, "-m", "cva", *map(str, args)])


def without_paths(path: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(path.read_text())
    for date in ("t1", "t2"):
        told[date] = {"bands": told[date]["bands"]}
    return told


def test_the_result_is_that_of_the_files_here(
    scene: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here := tmp_path / "here").mkdir()
    (there := tmp_path / "there").mkdir()
    local = [str(scene.folder / name) for name in ("t1.tif", "t2.tif")]
    for folder, inputs in ((here, local), (there, [scene.at("t1.tif"), scene.at("t2.tif")])):
        out = [
            "-o",
            folder / "c.geojson",
            "--prob",
            folder / "p.png",
            "--preview",
            folder / "v.png",
        ]
        out[3] = folder / "p.tif"
        assert main(["predict", *inputs, "-m", "cva", *map(str, out)]) == 0, capsys.readouterr().err
    for name in ("c.geojson", "v.png"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    sizes = {date: (scene.folder / f"{date}.tif").stat().st_size for date in ("t1", "t2")}
    told = json.loads((there / "c.geojson.json").read_text())
    assert told["t1"]["bytes"] == sizes["t1"]
    assert told["t1"]["etag"]
    assert "sha256" not in told["t1"]
    assert without_paths(here / "c.geojson.json") == without_paths(there / "c.geojson.json")


def test_no_more_is_fetched_than_is_said_before(
    scene: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out: list[str | Path] = [
        "-o",
        tmp_path / "c.tif",
        "--bbox",
        "500000,4999000,501000,5000000",
        "--json",
    ]
    assert predict(scene, *out, "--dry-run") == 0
    plan = json.loads(capsys.readouterr().out)
    said = plan["read_bytes"]
    local = [*map(str, (scene.folder / "t1.tif", scene.folder / "t2.tif", *out)), "--dry-run"]
    assert main(["predict", *local, "-m", "cva"]) == 0
    assert plan["memory_bytes"] - json.loads(capsys.readouterr().out)["memory_bytes"] == 64 << 20
    for date in ("t1", "t2"):
        blocks = (scene.folder / f"{date}.tif").stat().st_size
        assert 0.6 * blocks < said[date] < blocks  # cva looks at the whole scene
    assert not (tmp_path / "c.tif").exists()
    scene.asked()
    assert predict(scene, *out) == 0
    lines = scene.asked()
    for date in ("t1", "t2"):
        fetched = [line for line in lines if f"{date}.tif" in line["path"]]
        assert all(line["range"] for line in fetched if line["method"] == "GET")
        assert sum(line["bytes"] for line in fetched) < 1.3 * said[date]


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("403", "found a server that refuses access (HTTP 403)"),
        ("404", "found no such file on the server (HTTP 404)"),
        ("plain", "found a server that sends whole files only"),
        ("500", "found a server response without the file (HTTP 500)"),
        ("cut", "found a connection that broke off ("),
    ],
)
def test_one_line_says_what_is_wrong(
    scene: Web,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    said: str,
) -> None:
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "1")
    assert predict(scene, "-q", "-o", tmp_path / "c.tif", mode=mode) == 1
    err = capfd.readouterr().err
    assert said in err
    assert err.count("\n") == 1, err
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


def test_a_run_goes_on_where_the_connection_broke(
    scene: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv: list[str | Path] = [
        "--prob",
        tmp_path / "p.tif",
        "-o",
        tmp_path / "c.png",
        "--tile-size",
        "128",
    ]
    argv += ["--workers", "1"]
    monkeypatch.setattr(maps, "warn_of_shift", lambda _: None)
    calls: list[Any] = []

    def breaks(*args: Any, **more: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        calls.append(args)
        if len(calls) == 12:  # one block of statistics, some tiles, of nine
            raise RemoteError("expected a readable raster, found a connection that broke off")
        return read_source(*args, **more)

    monkeypatch.setattr(scene_module, "read_source", breaks)
    assert predict(scene, *argv) == 1
    assert not (tmp_path / "c.png").exists()
    monkeypatch.setattr(scene_module, "read_source", read_source)
    capsys.readouterr()
    assert predict(scene, *argv, "--json") == 0
    assert json.loads(capsys.readouterr().out)["resumed"]
    whole = tmp_path / "whole.tif"
    assert predict(scene, "-o", tmp_path / "other.png", "--prob", whole) == 0
    with rasterio.open(whole) as one, rasterio.open(tmp_path / "p.tif") as two:
        assert np.array_equal(one.read(), two.read(), equal_nan=True)


def test_a_file_replaced_while_it_is_read_is_noticed(
    scene: Web,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    write_tif: Callable[..., Path],
) -> None:
    carry_out = maps._compute

    def replaced(*args: Any) -> dict[str, Any]:
        found = carry_out(*args)
        write_tif(scene.folder / "t2.tif", np.zeros((3, SIDE, SIDE), np.uint8), **COG)
        return found

    monkeypatch.setattr(maps, "_compute", replaced)
    assert predict(scene, "-o", "memory://r/c.tif") == 1
    assert "found another version on the server; repeat" in capsys.readouterr().err
    assert not fsspec.filesystem("memory").exists("/r/c.tif")


@pytest.mark.slow
def test_results_are_uploaded_with_what_lies_beside_them(
    scene: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = fsspec.filesystem("memory")
    (scene.folder / "out").mkdir()
    outputs = ["memory://box/c.geojson", scene.at("out/c.tif"), str(tmp_path / "c.gpkg")]
    argv = [word for path in outputs for word in ("-o", path)]
    assert predict(scene, *argv, "--json") == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == outputs
    names = {Path(name).name for name in memory.ls("/box", detail=False)}
    assert names == {"c.geojson", "c.geojson.json", "c.qml"}
    assert {path.name for path in (scene.folder / "out").iterdir()} == {"c.tif", "c.qml"}
    features = json.loads(memory.cat("/box/c.geojson"))["features"]
    assert len(features) == 1
    assert not list(tmp_path.glob("rscd-*"))
    assert predict(scene, *argv) == 1
    assert "found memory://box/c.geojson already there; add --overwrite" in capsys.readouterr().err
    assert predict(scene, *argv, "--overwrite") == 0
    memory.rm("/box", recursive=True)


def test_an_upload_that_fails_is_made_up_for(
    scene: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["-o", "memory://late/c.geojson"]

    def refused(*_: Any) -> None:
        raise OutputError("expected to write it, found: HTTP 503")

    monkeypatch.setattr(targets_module, "upload", refused)
    assert predict(scene, *argv) == 1
    assert "the same command resumes it" in capsys.readouterr().err
    assert list(tmp_path.glob("rscd-*/0/c.geojson"))
    monkeypatch.setattr(targets_module, "upload", upload)
    assert predict(scene, *argv, "--json") == 0
    assert json.loads(capsys.readouterr().out)["resumed"]
    memory = fsspec.filesystem("memory")
    assert memory.exists("/late/c.geojson")
    assert not list(tmp_path.glob("rscd-*"))
    memory.rm("/late", recursive=True)


def test_what_cannot_be_uploaded_is_said_first(
    scene: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv, said in (
        (["-o", "memory://x/c.nonsense"], "expected an output ending in"),
        (["-o", "nonsense://x/c.tif"], "here or at an address such as s3://"),
        (["-o", scene.at("t1.tif")], "found the input"),
    ):
        assert predict(scene, *argv) != 0
        assert said in capsys.readouterr().err
    folder = str(scene.folder)
    assert main(["predict", folder, folder, "-o", "memory://x/{name}.tif"]) == 2
    assert "outputs on this machine for folders" in capsys.readouterr().err
    assert not list(tmp_path.glob("rscd-*"))


def test_maps_at_addresses_are_evaluated(
    scene: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str], write_tif: Callable[..., Path]
) -> None:
    truth = np.zeros((SIDE, SIDE), np.uint8)
    truth[150:170, 150:180] = 1
    write_tif(scene.folder / "truth.tif", truth, **COG)
    write_tif(scene.folder / "found.tif", np.roll(truth, 5, axis=1), **COG)
    reports = []
    ways: tuple[Callable[[str], str], ...] = (
        lambda name: str(scene.folder / name),
        lambda name: scene.at(name, "cut2"),
    )
    for at in ways:
        assert main(["evaluate", at("found.tif"), at("truth.tif"), "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        reports.append({k: v for k, v in report.items() if k not in ("prediction", "truth")})
    assert reports[0] == reports[1]
    assert main(["evaluate", scene.at("none.tif"), scene.at("truth.tif")]) == 1
    assert "no such file on the server (HTTP 404)" in capsys.readouterr().err


@pytest.mark.slow
def test_events_between_addresses(
    scene: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = fsspec.filesystem("memory")
    dates = [scene.at("t1.tif"), scene.at("t2.tif")]
    argv = ["events", *dates, "--segmenter", "spectral", "-o", "memory://e/events.geojson"]
    assert main(argv) == 0, capsys.readouterr().err
    assert memory.exists("/e/events.geojson")
    assert main(argv) == 1
    assert "already there; add --overwrite" in capsys.readouterr().err
    assert not list(tmp_path.glob("rscd-*"))
    memory.rm("/e", recursive=True)
