import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from rscd.base.errors import DataError, OutputError
from rscd.base.files import digest_of
from rscd.labels.store import EMPTY, STEPS, Store, open_store
from rscd.segmenters.instances import from_masks
from rscd.segmenters.segmenter import SemanticPrediction

CLASSES = ("house", "road")
SOURCE = {"file": "a.png", "bytes": 3, "mtime_ns": 4}
GRIDS = {
    "pixels": None,
    "metres": GeoBox((14, 17), Affine(0.5, 0, 431_000.25, 0, -0.5, 5_400_000.5), "EPSG:32633"),
    "degrees": GeoBox((14, 17), Affine(4e-6, 0, 13.1, 0, -3e-6, 52.4), "EPSG:4326"),
    "rotated": GeoBox((14, 17), Affine(0.4, 0.3, 1000, 0.3, -0.4, 2000), "EPSG:32633"),
}


def a_store(folder: Path, **fingerprint: Any) -> Store:
    with open_store(folder, {"backend": "x", **fingerprint}, CLASSES, 1) as store:
        return store


def a_prediction(
    masks: Sequence[Any] = (), valid: NDArray[Any] | None = None, seed: int = 0
) -> SemanticPrediction:
    prob = np.random.default_rng(seed).random((2, 14, 17)).astype(np.float32)
    return SemanticPrediction(prob, CLASSES, 1, masks, valid)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@settings(max_examples=25, deadline=None)
@given(masks=arrays(bool, (2, 14, 17)))
def test_objects_and_scores_come_back(
    tmp_path_factory: pytest.TempPathFactory, grid: GeoBox | None, masks: NDArray[Any]
) -> None:
    store = a_store(tmp_path_factory.mktemp("store"))
    kept = [i for i in from_masks(masks, [0, 0], [0.25, 0.75]) if i.area_px]
    valid = np.ones((14, 17), bool)
    valid[3, 4] = False
    written = a_prediction(kept, valid)
    store.write("train/a", "t2", written, grid, SOURCE)
    found = store.read("train/a", "t2")
    assert found.valid is not None
    assert found.instances is not None
    assert (found.valid == valid).all()
    assert np.abs(found.prob - written.prob)[:, valid].max() <= 0.5 / STEPS + 1e-6
    assert len(found.instances) == len(kept)
    for one, other in zip(kept, found.instances, strict=True):
        assert (one.class_index, one.score, one.bbox) == (
            other.class_index,
            other.score,
            other.bbox,
        )
        assert (one.mask == other.mask).all()
    assert (grid is None) == store.grid("train/a", "t2").affine.is_identity
    if grid is not None:
        assert store.grid("train/a", "t2") == grid


@pytest.mark.parametrize("gamma", [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.55])
def test_hundredths_keep_their_value(tmp_path: Path, gamma: float) -> None:
    store = a_store(tmp_path)
    prob = np.full((2, 4, 4), gamma, np.float32)
    store.write("a", "t1", SemanticPrediction(prob, CLASSES, 1), None, SOURCE)
    assert (store.read("a", "t1").prob >= np.float32(gamma)).all()
    assert store.read("a", "t1").instances is None
    assert store.read("a", "t1").valid is None


def test_complete_means_same_settings_and_same_image(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    assert not store.is_complete("a", "t1", SOURCE)
    store.write("a", "t1", a_prediction(), None, SOURCE)
    assert store.is_complete("a", "t1", SOURCE)
    assert not store.is_complete("a", "t2", SOURCE)
    assert not store.is_complete("a", "t1", {**SOURCE, "bytes": 4})
    assert a_store(tmp_path).is_complete("a", "t1", SOURCE)


def test_a_store_is_never_mixed(tmp_path: Path) -> None:
    a_store(tmp_path, tile=1024)
    store = a_store(tmp_path, tile=512)  # nothing was in it
    store.write("a", "t1", a_prediction(), None, SOURCE)
    with pytest.raises(OutputError, match=r"was begun, found other tile; choose another"):
        a_store(tmp_path, tile=256)


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_store(tmp_path)

    def full(*_args: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rscd.labels.store._scores", full)
    with pytest.raises(OutputError, match="No space left"):
        store.write("a", "t1", a_prediction(from_masks(np.ones((1, 14, 17)))), None, SOURCE)
    assert not store.is_complete("a", "t1", SOURCE)
    with pytest.raises(DataError, match="cannot be read"):
        store.read("a", "t1")


def test_scores_that_the_disk_loses_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = a_store(tmp_path)
    written = Path.write_bytes

    def losing(path: Path, content: bytes) -> int:
        return written(path, content[:-1] if path.suffix == ".tif" else content)

    monkeypatch.setattr(Path, "write_bytes", losing)
    with pytest.raises(OutputError, match=r"a_1\.tif, found: read-back mismatch"):
        store.write("a", "t1", a_prediction(), None, SOURCE)
    assert not store.is_complete("a", "t1", SOURCE)
    assert not list(tmp_path.rglob("*.tif"))


def test_the_files_tell_what_they_are(tmp_path: Path) -> None:
    import rasterio

    store = a_store(tmp_path)
    store.write("a", "t1", a_prediction(), GRIDS["metres"], SOURCE)
    with rasterio.open(store.prob_path("a", "t1")) as dataset:
        assert dataset.descriptions == CLASSES
        assert dataset.scales == (1 / STEPS,) * 2
        assert dataset.nodata == EMPTY
        assert dataset.crs.to_epsg() == 32633
    noted = json.loads((tmp_path / "claim.json").read_text())
    assert noted == {"segmentations": {"backend": "x"}}


@pytest.mark.parametrize("tile", [512, 256])
def test_a_store_of_version_0_1_is_resumed_with_the_same_settings_alone(
    tmp_path: Path, tile: int
) -> None:
    store = a_store(tmp_path, tile=512)
    store.write("a", "t1", a_prediction(), None, SOURCE)
    (tmp_path / "claim.json").unlink()
    known = {"backend": "x", "tile": 512}
    manifest = {"schema": 1, "digest": digest_of(known), "fingerprint": known}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    if tile == 512:
        assert a_store(tmp_path, tile=512).is_complete("a", "t1", SOURCE)
    else:
        with pytest.raises(OutputError, match="found other tile"):
            a_store(tmp_path, tile=tile)


def test_two_runs_do_not_share_a_store(tmp_path: Path) -> None:
    with (
        open_store(tmp_path / "s", {}, CLASSES, 1),
        pytest.raises(OutputError, match="another run is writing to"),
    ):
        a_store(tmp_path / "s")
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["claim.json"]
