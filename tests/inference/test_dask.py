"""Blocks on a cluster: the bits of one process, weights once per worker, and workers that die."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster
from numpy.typing import NDArray

from rscd import Options, open_pair, predict
from rscd.base.errors import RscdError, SceneError, UsageError
from rscd.cli import main
from rscd.geo.changemap import ChangeMap
from rscd.geo.scene import ScenePair
from rscd.geo.source import close_handles
from rscd.geo.tiles import Box
from rscd.inference.dask import cluster_mapper, dask_mapper, pack, weights_folder
from rscd.inference.journal import open_journal
from rscd.inference.kinds import Standing
from rscd.inference.network import Network, load_network, save_weights
from rscd.inference.predictor import Tiling
from rscd.inference.tiled import predict_scene, scene_blocks
from rscd.models.networks import build_network

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not have the tests

SHAPE = (150, 210)
CARD = {"halo": 64, "multiple": 16, "patch_size": 160, "threshold": 0.5}
TILES = 4 * 5


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_handles()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def pair(tmp_path: Path, write_tif: Callable[..., Path]) -> ScenePair:
    rng = np.random.default_rng(0)
    t1, t2 = rng.integers(1, 200, (2, 3, *SHAPE)).astype(np.uint8)
    t2[:] = t1 // 2 + rng.integers(0, 9, t1.shape)
    t2[:, 60:90, 80:120] = 255
    t1[:, :40, :40] = 0
    return open_pair(
        write_tif(tmp_path / "t1.tif", t1, nodata=0), write_tif(tmp_path / "t2.tif", t2)
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, build_network("tiny", {}), "tiny", {}, CARD)
    return path


def outputs(pair: ScenePair, folder: Path, model: str | Path, **how: Any) -> dict[str, bytes]:
    folder.mkdir()
    files = [folder / "change.tif", folder / "change.geojson"]
    options = Options(model=str(model), tile_size=48)
    result = predict(pair, files, options, prob=folder / "prob.tif", **how)
    assert result.changed_pixels > 0
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["irmad", "pca-kmeans", "network"])
def test_a_cluster_gives_the_bytes_of_one_process(
    tmp_path: Path, pair: ScenePair, weights: Path, client: Client, model: str
) -> None:
    model = str(weights) if model == "network" else model
    here = outputs(pair, tmp_path / "here", model)
    there = outputs(pair, tmp_path / "there", model, mapper=dask_mapper(client))
    assert here == there


def bytes_to_workers(client: Client) -> dict[str, int]:
    """Bytes of all messages that the scheduler has sent to each worker."""

    def count(dask_scheduler: Any) -> dict[str, int]:
        return {name: comm.byte_count for name, comm in dask_scheduler.stream_comms.items()}

    return client.run_on_scheduler(count)


def stamps(client: Client) -> dict[str, dict[str, int]]:
    """Name and time of every weights file on every worker."""

    def files(dask_worker: Any) -> dict[str, int]:
        return {p.name: p.stat().st_mtime_ns for p in weights_folder(dask_worker).iterdir()}

    return client.run(files)


@pytest.mark.slow
def test_weights_travel_once_per_worker(
    tmp_path: Path, pair: ScenePair, weights: Path, client: Client
) -> None:
    outputs(pair, tmp_path / "first", weights, mapper=dask_mapper(client))
    before, sent = stamps(client), bytes_to_workers(client)
    assert all(len(files) == 1 for files in before.values())
    outputs(pair, tmp_path / "second", weights, mapper=dask_mapper(client))
    assert stamps(client) == before
    after = bytes_to_workers(client)
    each = sum(after[name] - sent[name] for name in sent) / TILES
    assert 0 < each < 10_000 < weights.stat().st_size / 10


def test_what_is_packed_has_no_weights_and_absolute_paths(
    tmp_path: Path, pair: ScenePair, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_network(weights, "cpu", 1)
    monkeypatch.chdir(tmp_path)
    relative = replace(pair, t1=replace(pair.t1, path="t1.tif"))
    packed, files = pack(partial(print, relative, network))
    assert len(packed) < weights.stat().st_size / 10
    assert files == {f"{network.sha256}.safetensors": weights}
    assert str(tmp_path / "t1.tif").encode() in packed


def test_jobs_are_taken_only_as_results_are_taken(client: Client) -> None:
    taken = 0

    def jobs() -> Iterator[int]:
        nonlocal taken
        for job in range(30):
            taken += 1
            yield job

    for number, found in enumerate(dask_mapper(client)(abs, jobs()), 1):
        assert found == number - 1
        assert taken - number <= 4
    assert number == taken == 30


def test_errors_of_the_work_arrive_as_they_are(client: Client) -> None:
    def work(job: int) -> Any:
        if job == 2:
            raise SceneError("expected pixels, found none; look again")
        return job

    with pytest.raises(SceneError, match="look again"):
        list(dask_mapper(client)(work, range(9)))


def test_a_raster_that_workers_see_otherwise_is_refused(pair: ScenePair, client: Client) -> None:
    other = replace(pair, t1=replace(pair.t1, stamp=(0, 1)))
    with pytest.raises(SceneError, match=r"t1\.tif on worker .*, found another file; use a folder"):
        list(scene_blocks(other, 0, dask_mapper(client)))
    other = replace(pair, t1=replace(pair.t1, path=f"{pair.t1.path}.gone"))
    with pytest.raises(SceneError, match="found none"):
        list(scene_blocks(other, 0, dask_mapper(client)))


def test_another_version_on_the_workers_is_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rscd.inference.dask.version", lambda: "0.0.1")
    with pytest.raises(RscdError, match=r"expected rscd 0\.0\.1 on every worker, found"):
        list(dask_mapper(client)(abs, [1]))


@dataclass(frozen=True)
class Noted:
    """A predictor that leaves a file in a folder for every call, and takes its time."""

    predictor: Any
    folder: Path

    @property
    def threshold(self) -> float:
        return 0.5

    @property
    def tiling(self) -> Tiling:
        return self.predictor.tiling

    def __call__(self, image: NDArray[Any], valid: NDArray[Any]) -> Any:
        (self.folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(0.05)
        return self.predictor(image, valid)


def fill(
    pair: ScenePair,
    predictor: Network | Noted,
    folder: Path,
    mapper: Callable[..., Any] = map,
    progress: Callable[..., Any] = lambda *_: None,
) -> NDArray[Any]:
    """Probabilities as the engine makes them; the journal stays only if it is interrupted."""
    with open_journal(folder, {}) as journal:
        change_map = ChangeMap(journal.folder, pair.grid, 0.5, {})
        predict_scene(
            pair, predictor, change_map, journal, tile_size=48, mapper=mapper, progress=progress
        )
        prob = change_map.prob.read(Box(0, 0, *SHAPE))
        journal.remove()
    return prob


@pytest.mark.slow
def test_buildings_come_with_the_change(
    tmp_path: Path, pair: ScenePair, buildings: Path, client: Client
) -> None:
    network, found = load_network(buildings, "cpu", 1), []
    for name, mapper in (("here", map), ("there", dask_mapper(client))):
        with open_journal(tmp_path / name, {}) as journal:
            change_map = ChangeMap(journal.folder, pair.grid, 0.5, {})
            standing = Standing.beside(change_map, 0.3)
            predict_scene(
                pair, network, change_map, journal, tile_size=96, mapper=mapper, standing=standing
            )
            found.append(
                [change_map.prob.read(Box(0, 0, *SHAPE)), standing.read(Box(0, 0, *SHAPE))]
            )
    np.testing.assert_array_equal(found[1][0], found[0][0])
    np.testing.assert_array_equal(found[1][1], found[0][1])
    assert found[0][1].any()


@pytest.fixture
def noted(tmp_path: Path, weights: Path) -> Noted:
    (tmp_path / "calls").mkdir()
    return Noted(load_network(weights, "cpu", 1), tmp_path / "calls")


def calls(noted: Noted) -> list[str]:
    return [path.name.split("-")[0] for path in noted.folder.iterdir()]


@pytest.mark.posix
@pytest.mark.slow
def test_a_killed_worker_costs_its_blocks_and_nothing_else(
    tmp_path: Path, pair: ScenePair, noted: Noted, client: Client
) -> None:
    expected = fill(pair, noted.predictor, tmp_path / "here")
    client.wait_for_workers(2, timeout=300)
    killed: list[Any] = []

    def progress(stage: str, done: int, total: int) -> None:
        if done == TILES // 4 and not killed:
            killed.append(int(calls(noted)[0]))  # one that works
            os.kill(killed[0], signal.SIGKILL)

    found = fill(pair, noted, tmp_path / "there", dask_mapper(client), progress)
    np.testing.assert_array_equal(found, expected)
    ran = calls(noted)
    assert str(killed[0]) in ran
    assert TILES <= len(ran) <= TILES + 4  # those in flight
    while killed[0] in client.run(os.getpid).values() or len(client.nthreads()) < 2:
        time.sleep(0.1)
    assert all(stamps(client).values())  # the worker in its place has the weights


@pytest.mark.slow
def test_an_interrupted_run_is_resumed_on_a_cluster(
    tmp_path: Path, pair: ScenePair, noted: Noted, client: Client
) -> None:
    expected = fill(pair, noted.predictor, tmp_path / "here")

    def stop(stage: str, done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(pair, noted.predictor, tmp_path / "there", progress=stop)
    found = fill(pair, noted, tmp_path / "there", dask_mapper(client))
    np.testing.assert_array_equal(found, expected)
    assert len(calls(noted)) == TILES - 7


class TestCommand:
    @pytest.mark.slow
    def test_local_workers(
        self, tmp_path: Path, pair: ScenePair, capsys: pytest.CaptureFixture[str]
    ) -> None:
        inputs = [pair.t1.path, pair.t2.path, "-m", "irmad", "--tile-size", "48"]
        for name, more in (("a", []), ("b", ["--dask", "local:1"])):
            out = str(tmp_path / f"{name}.gpkg")
            prob = str(tmp_path / f"{name}_prob.tif")
            assert main(["predict", *inputs, "-o", out, "--prob", prob, *more]) == 0
        assert "cluster: 1 workers, 1 threads" in capsys.readouterr().err
        assert (tmp_path / "a_prob.tif").read_bytes() == (tmp_path / "b_prob.tif").read_bytes()

    @pytest.mark.parametrize(
        ("more", "message", "code"),
        [
            (["--dask", "local:0"], "expected --dask local, local:N or the address", 2),
            (["--dask", "somewhere"], "found 'somewhere'", 2),
            (["--dask", "tcp://127.0.0.1:1"], "expected a Dask cluster at --dask tcp://127", 1),
            (["--dask", "local", "--workers", "2"], "expected --workers without --dask", 2),
        ],
    )
    def test_what_cannot_be_is_told_in_one_line(
        self,
        tmp_path: Path,
        pair: ScenePair,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        more: list[str],
        message: str,
        code: int,
    ) -> None:
        monkeypatch.setattr("rscd.inference.dask.CONNECT_S", 1)
        out = tmp_path / "out.tif"
        assert main(["predict", pair.t1.path, pair.t2.path, "-o", str(out), *more]) == code
        last = capsys.readouterr().err.splitlines()[-1]
        assert message in last
        assert not out.exists()

    def test_without_dask(
        self,
        tmp_path: Path,
        pair: ScenePair,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.delitem(sys.modules, "rscd.inference.dask")
        monkeypatch.setitem(sys.modules, "distributed", None)
        words = ["predict", pair.t1.path, pair.t2.path, "-o", str(tmp_path / "o.tif")]
        assert main([*words, "--dask", "local"]) == 1
        assert "pip install 'rscd[cluster]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_scheduler_and_a_worker_started_by_hand(tmp_path: Path, pair: ScenePair) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "dask"]
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = ["worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny"]
    started = []
    try:
        for command in (scheduler, [*worker, "--local-directory", str(tmp_path / "worker")]):
            with (tmp_path / f"{command[0]}.log").open("wb") as log:
                process = subprocess.Popen([*dask, *command], stdout=log, stderr=log, cwd=tmp_path)
            started.append(process)
        with Client(address, timeout=300) as client:
            client.wait_for_workers(1, timeout=300)
        here = outputs(pair, tmp_path / "here", "irmad")
        with cluster_mapper(address) as mapper:
            there = outputs(pair, tmp_path / "there", "irmad", mapper=mapper)
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)
    assert here == there


@pytest.mark.slow
def test_an_address_is_not_a_word() -> None:
    with pytest.raises(UsageError, match="give, for example, tcp:"), cluster_mapper("local:x"):
        pass
