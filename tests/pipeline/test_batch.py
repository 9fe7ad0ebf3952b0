"""Many pairs: none is done twice, one that fails stops none, and what stands over all of them."""

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pystac
import pytest
import rasterio
from affine import Affine
from distributed import Client
from pystac.validation.local_validator import LocalValidator

from rscd import Options
from rscd.base.claim import alone
from rscd.base.errors import OutputError, RscdError
from rscd.cli import main
from rscd.data.images import write_picture
from rscd.inference import network
from rscd.inference.dask import dask_mapper
from rscd.inference.tiled import JobLost
from rscd.inference.weights import read_network
from rscd.pipeline import batch
from rscd.pipeline.batch import RECORD, RUNS, Work, run_batch
from rscd.pipeline.maps import carry_out
from rscd.pipeline.pairs import Pair

SIDE = 32
IDS = ("a", "b", "c")


def write_pair(folder: Path, name: str, left: int, seed: int = 0) -> None:
    """A pair at a column of one lattice, with the same change at columns 20 to 28 of it."""
    row, col = np.mgrid[:SIDE, left : left + SIDE]
    t1 = np.stack([(row * 7 + col * 5 + band * 11) % 90 + 60 + seed for band in range(3)])
    t2 = np.where((row >= 8) & (row < 20) & (col >= 20) & (col < 28), 255 - t1, t1)
    place = Affine(0.5, 0, 500_000 + left * 0.5, 0, -0.5, 5_000_000)
    for date, pixels in (("t1", t1), ("t2", t2)):
        with rasterio.open(
            folder / f"{name}_{date}.tif",
            *("w", "GTiff", SIDE, SIDE, 3, "EPSG:32633", place, "uint8"),
        ) as dataset:
            dataset.write(pixels.astype(np.uint8))


@pytest.fixture
def scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pairs, of which two show the same change."""
    monkeypatch.chdir(tmp_path)
    rows = ["id,t1,t2,t1_date,t2_date"]
    for name, left in zip(IDS, (0, 10, 200), strict=True):
        write_pair(tmp_path, name, left)
        rows.append(f"{name},{name}_t1.tif,{name}_t2.tif,2019-05-01,2020-06-02")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def run(capsys: Any, *more: str) -> tuple[int, Any, str]:
    """Exit code, the JSON document on stdout, stderr."""
    code = main(["batch", "pairs.csv", "-o", "out", "-m", "cva", "--json", *more])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def layer(path: str) -> geopandas.GeoDataFrame:
    return geopandas.read_file(path, layer="changes")


def counts(document: Any) -> tuple[int, int, int]:
    return document["done"], document["skipped"], document["failed"]


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in files
    }


def test_a_broken_pair_stops_none_and_is_done_when_mended(scenes: Path, capsys: Any) -> None:
    whole = (scenes / "b_t2.tif").read_bytes()
    (scenes / "b_t2.tif").write_bytes(b"no picture")
    code, document, err = run(capsys)
    assert code == 1
    assert counts(document) == (2, 0, 1)
    assert list(document["failures"]) == ["b"]
    assert "b_t2.tif" in document["failures"]["b"]
    assert "found 1 that failed: b" in err.splitlines()[-1]
    runs = pd.read_parquet("out/runs.parquet").set_index("id")
    assert runs["status"].to_dict() == {"a": "done", "b": "failed", "c": "done"}
    assert runs.loc["b", "reason"] == document["failures"]["b"]
    assert not (scenes / "out" / "b").exists()
    before = content(scenes / "out")
    (scenes / "b_t2.tif").write_bytes(whole)
    code, document, _ = run(capsys)
    assert code == 0
    assert counts(document) == (1, 2, 0)
    after = content(scenes / "out")
    assert all(after[name] == before[name] for name in before if name.startswith(("a/", "c/")))
    runs = pd.read_parquet("out/runs.parquet").set_index("id")
    assert (runs["status"] == "done").all()
    assert (runs["model"] == "cva").all()
    assert runs["reason"].isna().all()
    assert runs.loc["a", "t1_date"] == "2019-05-01"
    assert list(runs.loc["a", "outputs"]) == ["a/a.json", "a/change.gpkg"]
    assert (runs[["t1_sha256", "t2_sha256", "recipe"]].map(len) == 64).all(axis=None)
    assert (runs["seconds"] > 0).all()
    assert (runs["n_polygons"] > 0).to_dict() == {"a": True, "b": True, "c": False}


def test_what_stands_over_all(scenes: Path, capsys: Any) -> None:
    assert run(capsys)[0] == 0
    each = [layer(f"out/{name}/change.gpkg") for name in IDS]
    table = layer("out/change.gpkg")
    # a and b show one change, c lies apart and shows none
    assert len(each[0]) == len(each[1]) > 0
    assert len(each[2]) == 0
    assert len(table) == len(each[0])
    taken = pd.concat(each)
    for row in table.itertuples():
        assert taken.geometry.geom_equals(row.geometry).any()
        assert row.pair in ("a", "b")
    assert table["id"].tolist() == [*range(1, len(table) + 1)]
    assert str(table.loc[0, "t2"])[:10] == "2020-06-02"
    assert table.crs == each[0].crs
    collection = pystac.Collection.from_file("out/collection.json")
    assert not [*LocalValidator().collection_validator().iter_errors(collection.to_dict())]
    items = list(collection.get_items())
    assert [item.id for item in items] == list(IDS)
    for item in items:
        files = {key: asset.get_absolute_href() for key, asset in item.assets.items()}
        assert files.pop("model") == "rscd:cva"
        assert list(files) == ["polygons"]
        assert files["polygons"] is not None
        assert Path(files["polygons"]).is_file()
        assert not [*LocalValidator().item_validator().iter_errors(item.to_dict())]
        assert item.bbox is not None
        west, south, east, north = item.bbox
        assert 14 < west < east < 16
        assert 45 < south < north < 46


def test_the_folder_may_have_a_name_that_gdal_reads_otherwise(scenes: Path, capsys: Any) -> None:
    assert run(capsys)[0] == 0
    assert main(["batch", "pairs.csv", "-o", "out!x;y/", "-m", "cva", "-q"]) == 0
    Path("out!x;y").rename("odd")
    assert layer("odd/change.gpkg").equals(layer("out/change.gpkg"))


def test_nothing_to_do_reads_and_writes_nothing(
    scenes: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(capsys)[0] == 0
    before = content(scenes / "out")
    monkeypatch.setattr(batch, "open_pair", None)
    code, document, _ = run(capsys, "--workers", "1")
    assert code == 0
    assert counts(document) == (0, 3, 0)
    assert content(scenes / "out") == before
    assert document["outputs"] == ["out/runs.parquet", "out/change.gpkg", "out/collection.json"]


def test_only_what_changed_is_done_again(scenes: Path, capsys: Any) -> None:
    assert run(capsys)[0] == 0
    before = content(scenes / "out")
    write_pair(scenes, "c", 0, seed=9)  # now it shows the change
    (scenes / "b_t1.tif").touch()  # as it was, at another time
    (scenes / "out" / "a" / "a.json").unlink()
    code, document, _ = run(capsys)
    assert code == 0
    assert counts(document) == (2, 1, 0)
    after = content(scenes / "out")
    assert after["b/change.gpkg"] == before["b/change.gpkg"]
    assert after["c/change.gpkg"] != before["c/change.gpkg"]
    assert after["a/a.json"][1] == before["a/a.json"][1]
    assert set(layer("out/change.gpkg")["pair"]) <= {"a", "b", "c"}


def test_what_a_user_changed_is_kept(scenes: Path, capsys: Any) -> None:
    assert run(capsys)[0] == 0
    shutil.copy("out/c/change.gpkg", "out/a/change.gpkg")
    mine = Path("out/a/change.gpkg").read_bytes()
    for _ in range(2):
        code, document, _ = run(capsys)
        assert code == 1
        assert "a/change.gpkg as it was written" in document["failures"]["a"]
        assert Path("out/a/change.gpkg").read_bytes() == mine
    assert run(capsys, "--overwrite")[0] == 0
    assert Path("out/a/change.gpkg").read_bytes() != mine


def test_other_settings_need_another_folder(scenes: Path, capsys: Any) -> None:
    assert run(capsys)[0] == 0
    before = content(scenes / "out")
    Path("out/notes.txt").write_text("mine")
    code, document, err = run(capsys, "--threshold", "0.9", "--min-area", "3")
    assert code == 1
    assert document is None
    assert "found other min_area_m2, threshold; choose another folder" in err
    Path("out/notes.txt").unlink()
    assert content(scenes / "out") == before
    Path("out/notes.txt").write_text("mine")
    assert counts(run(capsys, "--threshold", "0.9", "--overwrite")[1]) == (3, 0, 0)
    assert Path("out/notes.txt").read_text() == "mine"


def test_shards_come_to_the_same(scenes: Path, capsys: Any) -> None:
    assert run(capsys)[0] == 0
    at_once = content(scenes / "out")
    shutil.rmtree("out")
    code, document, err = run(capsys, "--shard", "1/2")
    assert code == 0
    assert counts(document) == (2, 0, 0)
    assert document["missing"] == 1
    assert document["outputs"] == []
    assert "1 pairs of other shards are missing" in err
    assert not Path("out/runs.parquet").exists()
    code, document, _ = run(capsys, "--shard", "2/2")
    assert counts(document) == (1, 0, 0)
    assert document["missing"] == 0
    for name in ("change.gpkg", "a/change.gpkg", "c/c.json", "collection.json"):
        assert (scenes / "out" / name).read_bytes() == at_once[name][1]
    assert len(pd.read_parquet("out/runs.parquet")) == 3
    # one process finds what the shards did
    assert counts(run(capsys)[1]) == (0, 3, 0)


def test_a_run_that_was_killed_goes_on(scenes: Path, capsys: Any) -> None:
    assert run(capsys)[0] == 0
    record = scenes / "out" / RUNS / "1-of-1" / RECORD
    text = record.read_text().rstrip()
    record.write_text(text[:-40])  # the last line is cut, its pair's files are there
    code, document, _ = run(capsys)
    assert code == 0
    assert counts(document) == (1, 2, 0)


def pairs(folder: Path) -> list[Pair]:
    names = (str(folder / f"{name}_") for name in IDS)
    return [
        Pair(name, f"{path}t1.tif", f"{path}t2.tif") for name, path in zip(IDS, names, strict=True)
    ]


def work(folder: Path, model: str = "cva", **more: Any) -> Work:
    return Work(folder, Options(model=model, workers=1), **more)


def test_what_failed_is_tried_again(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def flaky(pair: Any, **_: Any) -> Any:
        tries.append(Path(pair.pair.t1.path).name)
        if tries.count(tries[-1]) < {"a_t1.tif": 3, "b_t1.tif": 9}.get(tries[-1], 1):
            raise RuntimeError("a server that is down")
        return carry_out(pair, **_)

    monkeypatch.setattr(batch, "carry_out", flaky)
    summary = run_batch(pairs(scenes), work(scenes / "out"), retries=2)
    assert (summary.done, summary.failed) == (2, 1)
    assert summary.failures == {"b": "RuntimeError: a server that is down"}
    assert tries == [f"{name}_t1.tif" for name in ("a", "b", "c", "a", "b", "a", "b")]
    runs = pd.read_parquet("out/runs.parquet").set_index("id")
    assert runs["attempts"].to_dict() == {"a": 3, "b": 3, "c": 1}


def lost(which: str, function: Any, jobs: Any) -> Any:
    """A cluster on which one pair kills every worker."""
    for job in jobs:
        if job.id == which:
            raise JobLost("expected the cluster to carry out every block, found: dead workers")
        yield function(job)


def test_a_pair_that_kills_workers_costs_itself(scenes: Path) -> None:
    summary = run_batch(pairs(scenes), work(scenes / "out"), cluster=partial(lost, "b"))
    assert (summary.done, list(summary.failures)) == (2, ["b"])
    assert "dead workers" in summary.failures["b"]


def test_a_cluster_that_is_gone_ends_the_run(scenes: Path) -> None:
    def gone(function: Any, jobs: Any) -> Any:
        yield function(jobs[0])
        raise RscdError("no scheduler")

    with pytest.raises(RscdError, match="no scheduler"):
        run_batch(pairs(scenes), work(scenes / "out"), cluster=gone)
    summary = run_batch(pairs(scenes), work(scenes / "out"))
    assert (summary.done, summary.skipped) == (2, 1)


def test_a_cluster_gives_the_bytes_of_one_process(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"writes": ("polygons", "mask"), "suffix": ".parquet"}
    run_batch(pairs(scenes), work(scenes / "here", **how))
    # the largest go by blocks
    monkeypatch.setattr(batch, "MOST_PIXELS", SIDE * SIDE)
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0") as one:
        summary = run_batch(pairs(scenes), work(scenes / "there", **how), cluster=dask_mapper(one))
    assert (summary.done, summary.failed) == (3, 0)
    here, there = content(scenes / "here"), content(scenes / "there")
    assert here.keys() == there.keys()
    own = ("runs.parquet", RUNS, "collection.json")  # seconds, the folder's name
    for name in here:
        assert name.startswith(own) or here[name][1] == there[name][1], name


def test_large_scenes_go_by_blocks(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MOST_PIXELS", SIDE * SIDE - 1)
    kinds: list[str] = []

    def cluster(function: Any, jobs: Any) -> Any:
        kinds.append(getattr(function, "func", function).__name__)
        return map(function, jobs)

    summary = run_batch(pairs(scenes), work(scenes / "out"), cluster=cluster)
    assert (summary.done, summary.failed) == (3, 0)
    assert kinds.count("compare_there") == 1
    assert len(kinds) > 3  # the blocks of three pairs


def test_the_network_is_loaded_once(
    scenes: Path, buildings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []

    def counted(path: Path, *more: Any) -> Any:
        reads.append(path)
        return read_network(path, *more)

    monkeypatch.setattr(network, "read_network", counted)
    weights = shutil.copy(buildings, scenes)  # which no other test has loaded
    summary = run_batch(pairs(scenes)[:2], work(scenes / "out", str(weights)))
    assert (summary.done, summary.failed) == (2, 0)
    assert len(reads) == 1
    runs = pd.read_parquet("out/runs.parquet")
    assert runs["model_sha256"].map(len).tolist() == [64, 64]


def test_a_model_that_is_not_there_is_said_once(scenes: Path) -> None:
    with pytest.raises(RscdError, match=r"none\.ckpt"):
        run_batch(pairs(scenes), work(scenes / "out", "none.ckpt"))
    assert not (scenes / "out").exists()


def test_views_without_torch_are_said_once(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rscd.inference.network", None)
    options = Options(model="buildings", msi="1")
    with pytest.raises(ImportError, match=r"rscd\.inference\.network"):
        run_batch(pairs(scenes), Work(scenes / "out", options))
    assert not (scenes / "out" / "runs.parquet").exists()


def test_pairs_without_place_or_dates(scenes: Path, caplog: pytest.LogCaptureFixture) -> None:
    for date in ("t1", "t2"):
        with rasterio.open(scenes / f"a_{date}.tif") as dataset:
            write_picture(scenes / f"a_{date}.png", dataset.read())
    listed = [Pair("picture", "a_t1.png", "a_t2.png"), pairs(scenes)[1], Pair("none", "", "x.tif")]
    options = Options(model="cva", pixel_coordinates=True)
    summary = run_batch(listed, Work(Path("out"), options))
    assert summary.failures == {"none": "expected t1 of pair none in the list, found none"}
    assert set(layer("out/change.gpkg")["pair"]) == {"b"}
    assert "1 pairs without georeferencing are not in change.gpkg" in caplog.text
    assert "2 pairs without dates are not in collection.json" in caplog.text


def test_a_search_of_a_catalogue(scenes: Path, capsys: Any) -> None:
    """Bands, dates and places are those of the items."""
    bands = [{"eo:common_name": name} for name in ("red", "green", "blue")]
    items: list[dict[str, Any]] = [
        {
            "type": "Feature",
            "stac_version": "1.1.0",
            "id": f"{name}-{date}",
            "geometry": None,
            "properties": {"datetime": f"{day}T00:00:00Z", "grid:code": f"TILE-{name}"},
            "links": [],
            "assets": {
                "image": {"href": f"{name}_{date}.tif", "type": "image/tiff", "bands": bands}
            },
        }
        for name in ("a", "b")
        for date, day in (("t2", "2020-01-02"), ("t1", "2019-01-02"))
    ]
    search = {"type": "FeatureCollection", "features": items}
    Path("search.json").write_text(json.dumps(search))
    command = ("batch", "search.json", "-o", "out", "-m", "cva", "-b", "red,blue", "--json")
    assert main([*command]) == 0
    capsys.readouterr()
    runs = pd.read_parquet("out/runs.parquet")
    assert runs["id"].tolist() == ["a-t1__a-t2", "b-t1__b-t2"]
    assert runs["t1_date"].tolist() == ["2019-01-02"] * 2
    assert layer("out/change.gpkg")["pair"].nunique() == 1  # both show one change
    # what an item says is part of the recipe
    items[0]["assets"]["image"]["bands"] = [one | {"nodata": 7} for one in bands]
    Path("search.json").write_text(json.dumps(search))
    assert main([*command]) == 0
    assert counts(json.loads(capsys.readouterr().out)) == (1, 1, 0)


def test_pairs_of_two_systems_are_joined_in_degrees(scenes: Path) -> None:
    with rasterio.open(scenes / "a_t1.tif") as dataset:
        profile = dataset.profile | {"crs": "EPSG:32634"}
    for date in ("t1", "t2"):
        with rasterio.open(scenes / f"a_{date}.tif") as dataset:
            pixels = dataset.read()
        with rasterio.open(scenes / f"c_{date}.tif", "w", **profile) as other:
            other.write(pixels)
    run_batch(pairs(scenes), work(scenes / "out"))
    table = layer("out/change.gpkg")
    assert table.crs.to_epsg() == 4326
    assert set(table["pair"]) == {"b", "c"}
    lon = table.geometry.representative_point().x.groupby(table["pair"]).mean()
    assert lon.to_dict() == pytest.approx({"b": 15, "c": 21}, abs=0.01)


def test_another_run_of_the_same_part_is_refused(scenes: Path) -> None:
    run_batch(pairs(scenes), work(scenes / "out"))
    with (
        alone(scenes / "out" / RUNS / "1-of-1"),
        pytest.raises(OutputError, match="another run is writing"),
    ):
        run_batch(pairs(scenes), work(scenes / "out"))


@pytest.mark.parametrize(
    ("more", "found"),
    [
        (("--shard", "3/2"), "expected --shard K/N with K from 1 to N, found '3/2'"),
        (("--write", "polygons,rgb"), "found 'rgb'"),
        (("-o", "pairs.csv"), "expected a folder for -o, found the file pairs.csv"),
        (("--dask", "nowhere"), "expected --dask local"),
    ],
)
def test_wrong_usage(scenes: Path, capsys: Any, more: tuple[str, ...], found: str) -> None:
    code, document, err = run(capsys, *more)
    assert (code, document) == (2, None)
    assert found in err
    assert not Path("out").exists()


def test_a_dry_run_leaves_nothing(scenes: Path, capsys: Any) -> None:
    code, document, _ = run(capsys, "--dry-run", "--shard", "2/2")
    assert (code, document) == (0, {"pairs": 3, "of_this_shard": 1})
    assert not Path("out").exists()
