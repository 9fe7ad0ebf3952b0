"""The shipped network: when it is the default, that it is whole, small and what its card says."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import geopandas
import numpy as np
import pytest
import torch
from affine import Affine
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from rscd import Options, open_pair, predict
from rscd.base.errors import ModelError
from rscd.evaluation.dataset import Split, evaluate_split, labelled_folder, predict_pair
from rscd.evaluation.dataset import facts as data_facts
from rscd.inference import gpu, models, shipped
from rscd.inference.card import WEIGHTS_SHA256, identity
from rscd.inference.detectors.registry import DEFAULT_DETECTOR
from rscd.inference.models import load_model, model_names, scene_model
from rscd.inference.network import Network, load_network, save_weights
from rscd.inference.onnx_network import OnnxNetwork
from rscd.inference.shipped import (
    CHECKSUMS,
    SHIPPED,
    SceneFacts,
    default_model,
    shipped_card,
    shipped_path,
)
from rscd.inference.weights import read_card
from rscd.metrics.pixels import Counts, count
from rscd.models.networks import build_network
from rscd.synthetic.town_pairs import TownPairs


def facts(
    n_bands: int = 3,
    gsd_m: float | None = 0.5,
    *,
    georeferenced: bool = True,
    eight_bit: bool = True,
) -> SceneFacts:
    return SceneFacts(n_bands, gsd_m, georeferenced, eight_bit)


@pytest.mark.parametrize(
    ("scene", "name", "reason"),
    [
        (facts(), SHIPPED, "3 bands of 0.5 m"),
        (facts(4, 0.1), SHIPPED, "4 bands of 0.1 m"),
        (facts(3, 1.0), SHIPPED, "3 bands of 1 m"),
        (facts(8, 0.0999), SHIPPED, "8 bands of 0.0999 m"),
        (facts(3, None, georeferenced=False), SHIPPED, "pixels of 0.5 m assumed, else give --gsd"),
        (facts(3, 0.3, georeferenced=False), SHIPPED, "3 bands of 0.3 m"),
        (facts(2, 0.5), DEFAULT_DETECTOR, "needs 3 bands, found 2"),
        (facts(1, None, georeferenced=False), "pca-kmeans", "one band; irmad needs two"),
        (facts(1, 10.0), "pca-kmeans", "one band; irmad needs two"),
        (facts(2, 10.0), DEFAULT_DETECTOR, "needs 3 bands, found 2"),
        (facts(3, 0.05), DEFAULT_DETECTOR, "trained for pixels of 0.1 to 1 m, found 0.05 m"),
        (facts(6, 30.0), DEFAULT_DETECTOR, "trained for pixels of 0.1 to 1 m, found 30 m"),
        (facts(3, 5.0, georeferenced=False), DEFAULT_DETECTOR, "found 5 m"),
        (facts(3, None), DEFAULT_DETECTOR, "needs a pixel size, found none"),
    ],
)
def test_default_follows_bands_and_resolution(scene: SceneFacts, name: str, reason: str) -> None:
    chosen, why = default_model(scene)
    assert chosen == name
    assert reason in why


def test_choice_is_said_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="rscd")
    assert scene_model(None, facts(6, 30.0)).name == DEFAULT_DETECTOR
    assert "model irmad: buildings is trained for pixels of 0.1 to 1 m, found 30 m" in caplog.text
    caplog.clear()
    assert scene_model("cva", facts()).name == "cva"
    assert not caplog.text


@pytest.mark.parametrize(("name", "bands"), [("irmad", 1), ("irmad", 2), ("pca-kmeans", 1)])
def test_a_detector_that_needs_two_bands_says_so(
    caplog: pytest.LogCaptureFixture, name: str, bands: int
) -> None:
    caplog.set_level("INFO", logger="rscd")
    assert scene_model(name, facts(bands, 10.0)).name == name
    said = "irmad needs two bands or more and finds little in the one of these images"
    assert (said in caplog.text) is (name == "irmad" and bands == 1)
    assert ("take -m pca-kmeans" in caplog.text) is (said in caplog.text)


def test_run_takes_it_and_says_so(
    tmp_path: Path, write_tif: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="rscd")
    rng = np.random.default_rng(0)
    dates = rng.integers(1, 200, (2, 3, 40, 50)).astype(np.uint8)
    grid = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
    t1, t2 = (
        write_tif(tmp_path / f"t{i + 1}.tif", date, transform=grid) for i, date in enumerate(dates)
    )
    result = predict(open_pair(t1, t2), [tmp_path / "out.tif"], Options())
    assert result.model == SHIPPED
    assert f"model {SHIPPED}: " in caplog.text


def test_specks_below_the_smallest_building_are_no_polygons(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    torch.manual_seed(0)
    args = {"widths": [4, 6], "depths": [1, 1], "neck_width": 6, "decoder_width": 6}
    card = {"halo": 32, "multiple": 4, "patch_size": 96, "threshold": 0.5, "min_area_m2": 2000}
    weights = tmp_path / "w.safetensors"
    save_weights(weights, build_network("semantic", args), "semantic", args, card)
    dates = np.random.default_rng(0).integers(0, 256, (2, 3, 80, 80)).astype(np.uint8)
    t1, t2 = (write_tif(tmp_path / f"t{i + 1}.tif", date) for i, date in enumerate(dates))
    counts = []
    for least in (None, 0.0, 2000.0):
        options = Options(model=str(weights), min_area_m2=least, overwrite=True)
        found = predict(open_pair(t1, t2), [tmp_path / "a.gpkg"], options)
        assert found.n_polygons is not None
        counts.append(found.n_polygons)
    assert counts[0] == counts[2] < counts[1]


def test_doubtful_polygons_are_left_out_at_the_threshold_of_the_card(
    tmp_path: Path, write_tif: Callable[..., Path]
) -> None:
    torch.manual_seed(0)
    args = {"widths": [4, 6], "depths": [1, 1], "neck_width": 6, "decoder_width": 6}
    card = {"halo": 32, "multiple": 4, "patch_size": 96, "threshold": 0.5}
    dates = np.random.default_rng(0).integers(0, 256, (2, 3, 80, 80)).astype(np.uint8)
    t1, t2 = (write_tif(tmp_path / f"t{i + 1}.tif", date) for i, date in enumerate(dates))
    network: Any = build_network("semantic", args)
    network.decoder.head.weight.data *= 0.01  # so that scores differ in their four decimals

    def found(
        least: float | None, threshold: float | None = None, own: float | None = None
    ) -> list[float]:
        weights = tmp_path / "w.safetensors"
        save_weights(weights, network, "semantic", args, card | ({"min_score": own} if own else {}))
        options = Options(model=str(weights), min_score=least, threshold=threshold, overwrite=True)
        out = tmp_path / "a.gpkg"
        predict(open_pair(t1, t2), [out], options)
        return geopandas.read_file(out, layer="changes")["score"].tolist()

    every = found(None)
    middle = sorted(every)[len(every) // 2] - 0.00005
    sure = [score for score in every if score > middle]
    assert 0 < len(sure) < len(every)
    assert found(middle) == found(None, own=middle) == sure
    assert found(0.0, own=middle) == every
    assert found(None, threshold=0.5, own=middle) == every


def test_it_is_listed_first_and_loads_by_name() -> None:
    assert model_names()[:2] == [SHIPPED, DEFAULT_DETECTOR]
    model = load_model(SHIPPED)
    assert model.name == SHIPPED
    assert model.tiling.exact


@pytest.mark.parametrize("suffix", CHECKSUMS)
def test_changed_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    whole = shipped_path(suffix)
    content = bytearray(whole.read_bytes())
    content[-1] ^= 1
    path = tmp_path / whole.name
    path.write_bytes(content)
    path.with_suffix(".json").write_text(json.dumps(shipped_card()))
    monkeypatch.setattr(shipped, "shipped_path", lambda s=".safetensors": path.with_suffix(s))
    with pytest.raises(ModelError, match=r"expected the weights that ship.*install rscd again"):
        load_model(SHIPPED, torch=suffix == ".safetensors")
    path.unlink()
    with pytest.raises(ModelError, match="no file"):
        load_model(SHIPPED, torch=suffix == ".safetensors")


def test_both_forms_are_one_network() -> None:
    """The tensors of one, and what both find in a town, on the whole and at an odd size."""
    by_torch, by_onnx = load_model(SHIPPED, "cpu", torch=True), load_model(SHIPPED, "cpu")
    assert isinstance(by_torch, Network)
    assert isinstance(by_onnx, OnnxNetwork)
    # layers that were folded into others need no memory of their own
    less = by_onnx.tiling.bytes_per_pixel
    assert 0.5 < less / by_torch.tiling.bytes_per_pixel < 1
    own = {"bytes_per_pixel": less, "sha256": by_onnx.sha256, "file_format": "onnx"}
    assert by_onnx.card() == by_torch.card() | own | {WEIGHTS_SHA256: by_torch.sha256}
    assert identity(by_onnx.card()) == identity(by_torch.card())
    assert by_onnx.tiling == replace(by_torch.tiling, bytes_per_pixel=less)
    image, mask = town(1)
    for height, width in (mask.shape, (64, 160)):
        pair, seen = image[None, ..., :height, :width], np.ones((1, height, width), bool)
        pairs = zip(
            by_onnx.with_buildings(pair, seen), by_torch.with_buildings(pair, seen), strict=True
        )
        for found, wanted in pairs:
            np.testing.assert_allclose(found, wanted, atol=1e-5)
            assert wanted.max() > 0.9


@pytest.mark.parametrize(
    ("device", "driver", "installed", "asked"),
    [
        ("cpu", True, True, False),
        ("auto", False, True, False),
        ("auto", True, False, False),
        ("auto", True, True, True),
        ("cuda", False, True, True),
    ],
)
def test_torch_is_asked_only_where_a_gpu_may_be(
    monkeypatch: pytest.MonkeyPatch, device: str, driver: bool, installed: bool, asked: bool
) -> None:
    calls = []

    def network(path: Path, device: str, threads: int) -> Network:
        calls.append(path.suffix)
        return load_network(path, "cpu" if device == "auto" else device, threads)

    monkeypatch.setattr("rscd.inference.network.load_network", network)
    monkeypatch.setattr(gpu, "driver_there", lambda: driver)
    monkeypatch.setattr(models, "find_spec", lambda _: object() if installed else None)
    if device == "cuda":
        with pytest.raises(ModelError, match="expected a CUDA GPU for --device cuda, found none"):
            load_model(SHIPPED, device)
    else:  # torch finds no GPU behind the driver
        assert isinstance(load_model(SHIPPED, device), OnnxNetwork)
    assert calls == [".safetensors"] * asked


def test_a_missing_gpu_is_said_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"expected PyTorch for buildings .*'rscd\[train\]'"):
        load_model(SHIPPED, "cuda")


def test_no_driver_is_found_where_none_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "AMD", tmp_path / "kfd")
    monkeypatch.setattr(gpu, "DRIVERS", ("libno-such-driver.so.1",))
    assert not gpu.driver_there()
    (tmp_path / "kfd").touch()
    assert gpu.driver_there()
    monkeypatch.setattr(gpu, "AMD", tmp_path / "none")
    monkeypatch.setattr(gpu, "DRIVERS", ("libno-such-driver.so.1", "libc.so.6"))
    assert gpu.driver_there() is sys.platform.startswith("linux")


def test_card_beside_is_the_card_within() -> None:
    beside = shipped_card()
    assert read_card(shipped_path()) == {
        key: value for key, value in beside.items() if key not in CHECKSUMS.values()
    }
    for key in ("licence", "data", "gsd_m", "gsd_range_m", "bands", "measured", "summary"):
        assert beside[key], key
    assert tuple(beside["gsd_range_m"]) == shipped.GSD_RANGE_M


def test_it_is_as_small_as_promised() -> None:
    assert sum(shipped_path(s).stat().st_size for s in (*CHECKSUMS, ".json")) <= 12e6
    card = shipped_card()
    network = build_network(card["network"], card["network_args"]).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 2, 3, 256, 256))
    assert counter.get_total_flops() / 2 <= 1.6e9  # multiply-adds


def town(
    index: int = 0,
    seed: int = 4242,
    change_share: float | tuple[float, float] = (0.3, 0.5),
    dtype: Literal["uint8", "uint16"] = "uint8",
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Image and mask of a town that training never drew."""
    towns = TownPairs(seed=seed, patch_size=192, change_share=change_share, dtype=dtype)
    sample = towns[index]
    return sample["image"].numpy(), sample["mask"][0].numpy()


@pytest.mark.slow
def test_it_finds_new_buildings_of_towns() -> None:
    pooled = Counts((0, 0), (0, 0), (0, 0))
    for index in range(3):
        pooled += counted(*town(index))
    assert pooled.true[1] > 1000
    assert f1(pooled) > 0.4  # far from perfect, and far from chance


@pytest.mark.slow
def test_it_finds_next_to_nothing_where_nothing_was_built() -> None:
    called = [counted(*town(index, 4343, 0.0)).predicted[1] for index in range(3)]
    assert sum(called) < 0.01 * 3 * 192**2


def test_sixteen_bit_towns_do_as_well() -> None:
    eight = f1(counted(*town(1)))
    assert f1(counted(*town(1, dtype="uint16"), eight_bit=False)) > eight - 0.1


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize(("name", "gsd"), [("levir-cd", 0.5), ("fotbcd-binary", 0.2)])
def test_it_does_on_real_pairs_what_its_card_says(realdata: Path, name: str, gsd: float) -> None:
    data = labelled_folder(realdata / name, "test")
    model = scene_model(SHIPPED, data_facts(data, gsd))
    report = evaluate_split(Split(data, model, None))
    assert f1(report.counts) == pytest.approx(
        shipped_card()["measured"][f"{name} test"]["f1"], abs=0.01
    )


def counted(image: NDArray[Any], mask: NDArray[Any], *, eight_bit: bool = True) -> Counts:
    model = scene_model(SHIPPED, facts(eight_bit=eight_bit))
    prob, threshold = predict_pair(model, image, np.ones(mask.shape, bool))
    return count((prob >= threshold).astype(np.uint8), mask)


def f1(counts: Counts) -> float:
    return 2 * counts.hit[1] / (counts.true[1] + counts.predicted[1])
