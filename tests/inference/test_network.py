"""Networks from files: what the card says, what is refused, and that tiling does not matter."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

import rscd.inference.weights as network_files
from rscd import Options, open_pair, predict
from rscd.base.errors import ModelError
from rscd.base.types import CARD_FORMAT, CARD_KEY, NETWORK_PREFIX
from rscd.evaluation.dataset import predict_pair
from rscd.geo.scene import ScenePair
from rscd.geo.tiles import Box
from rscd.inference.network import export_weights, load_network, save_weights
from rscd.inference.weights import read_card, write_weights
from rscd.models.networks import build_network
from rscd.pipeline.prediction import Prediction

SHALLOW = {"n_bands": 2, "encoder": "resnet18", "decoder_channels": [8, 4], "std": [50.0, 50.0]}
CARD = {"halo": 48, "multiple": 4, "patch_size": 160, "threshold": 0.5}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_network("siamese-unet", SHALLOW)


def saved(path: Path, network: nn.Module, **card: Any) -> Path:
    save_weights(path, network, "siamese-unet", SHALLOW, CARD | card)
    return path


@pytest.fixture
def pair(tmp_path: Path, write_tif: Callable[..., Path]) -> ScenePair:
    rng = np.random.default_rng(0)
    dates = rng.integers(1, 200, (2, 2, 170, 210)).astype(np.uint8)
    t1, t2 = (write_tif(tmp_path / f"t{i + 1}.tif", date) for i, date in enumerate(dates))
    return open_pair(t1, t2)


def probabilities(
    pair: ScenePair, weights: Path, folder: Path, tile_size: int, **options: Any
) -> tuple[NDArray[Any], Prediction]:
    import rasterio

    out, prob = folder / f"{tile_size}.tif", folder / f"prob{tile_size}.tif"
    chosen = Options(model=str(weights), tile_size=tile_size, **options)
    result = predict(pair, [out], chosen, prob=prob)
    with rasterio.open(prob) as dataset:
        return dataset.read(1), result


def test_tiled_equals_whole_when_the_halo_covers_the_receptive_field(
    tmp_path: Path, network: nn.Module, pair: ScenePair
) -> None:
    weights = saved(tmp_path / "w.safetensors", network)
    radius = read_card(weights)["receptive_radius"]
    assert radius is not None
    assert radius <= CARD["halo"]
    model = load_network(weights, "cpu", 1)
    image, valid = pair.read(Box(-48, -48, 172 + 96, 212 + 96))
    whole = model(image[None], valid[None])[0][48:-50, 48:-50]
    for tile_size in (32, 100, 512):
        tiled, result = probabilities(pair, weights, tmp_path, tile_size)
        np.testing.assert_allclose(tiled, whole, atol=2e-5)
        assert result.seam is None


def test_a_small_halo_is_measured_and_reported(
    tmp_path: Path, network: nn.Module, pair: ScenePair
) -> None:
    weights = saved(tmp_path / "w.safetensors", network, halo=4)
    _, result = probabilities(pair, weights, tmp_path, 64)
    _, single = probabilities(pair, weights, tmp_path, 512)
    assert result.seam is not None
    assert result.seam["max_abs"] > 1e-5
    assert 0 < result.seam["mean_abs"] < result.seam["max_abs"] < 1
    assert single.seam is None


def test_checkpoint_and_export_predict_the_same(
    tmp_path: Path, network: nn.Module, pair: ScenePair
) -> None:
    state = {f"method.network.{k}": v for k, v in network.state_dict().items()}
    card = {"format": CARD_FORMAT, "network": "siamese-unet", "network_args": SHALLOW, **CARD}
    torch.save({"state_dict": state, CARD_KEY: card}, tmp_path / "run.ckpt")
    export_weights(tmp_path / "run.ckpt", tmp_path / "w.safetensors")
    beside = json.loads((tmp_path / "w.json").read_text())
    assert beside == read_card(tmp_path / "w.safetensors")
    image, valid = pair.read(Box(0, 0, 64, 64))
    results = [
        load_network(tmp_path / name, "cpu", 1)(image[None], valid[None])
        for name in ("run.ckpt", "w.safetensors")
    ]
    np.testing.assert_array_equal(results[0], results[1])


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    torch.save({"state_dict": {}, CARD_KEY: Malicious(trap)}, tmp_path / "evil.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Malicious(trap), protocol=2))
    for name in ("evil.ckpt", "plain.ckpt"):
        with pytest.raises(ModelError, match="would run code"):
            load_network(tmp_path / name, "cpu", 1)
    assert not trap.exists()


def test_what_cannot_be_used_is_one_clear_line(
    tmp_path: Path, network: nn.Module, pair: ScenePair
) -> None:
    with pytest.raises(ModelError, match="no file at"):
        read_card(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ModelError, match="found text at"):
        read_card(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="without its card"):
        read_card(tmp_path / "other.safetensors")
    save_file({}, tmp_path / "new.safetensors", {CARD_KEY: json.dumps({"format": 99})})
    with pytest.raises(ModelError, match=r"found 99.*update rscd"):
        read_card(tmp_path / "new.safetensors")
    weights = saved(tmp_path / "w.safetensors", network)
    image = np.zeros((1, 2, 3, 64, 64), np.float32)
    with pytest.raises(ModelError, match=r"expected 2 bands for w, found 3.*--bands"):
        load_network(weights, "cpu", 1)(image, np.ones((1, 64, 64), bool))
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="--device cpu"):
            load_network(weights, "cuda", 1)


def test_weights_that_take_the_place_of_others_are_read_anew(
    tmp_path: Path, network: nn.Module
) -> None:
    image = np.random.default_rng(0).random((1, 2, 2, 64, 64), dtype=np.float32) * 255
    valid = np.ones((1, 64, 64), bool)
    path = tmp_path / "w.safetensors"
    first = load_network(saved(path, network), "cpu", 1)
    before = first(image, valid)
    torch.manual_seed(1)
    other = build_network("siamese-unet", SHALLOW)
    second = load_network(saved(path, other), "cpu", 1)
    assert second.sha256 != first.sha256
    alone = load_network(saved(tmp_path / "alone.safetensors", other), "cpu", 1)
    np.testing.assert_array_equal(second(image, valid), alone(image, valid))
    assert np.abs(second(image, valid) - before).max() > 0.01
    with pytest.raises(ModelError, match="another file in its place"):
        first(image, valid)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_everywhere(
    tmp_path: Path, network: nn.Module, pair: ScenePair, suffix: str, broken: float
) -> None:
    weights = saved(tmp_path / "good.safetensors", network)
    card, tensors = read_card(weights), {k: v.clone() for k, v in network.state_dict().items()}
    name = next(key for key, value in tensors.items() if value.ndim == 4)
    tensors[name][0, 0, 0, 0] = broken
    path = tmp_path / f"broken{suffix}"
    if suffix == ".ckpt":
        state = {NETWORK_PREFIX + key: value for key, value in tensors.items()}
        torch.save({CARD_KEY: card, "state_dict": state}, path)
    else:
        save_file(tensors, path, {CARD_KEY: json.dumps(card)})
    refused = pytest.raises(
        ModelError, match=f"expected finite weights in {path}, found .* such as {name}"
    )
    with refused:
        predict(pair, [tmp_path / "c.tif"], Options(model=str(path)))
    with refused:
        export_weights(path, tmp_path / "out.safetensors")
    with pytest.raises(ModelError, match="found NaN or infinity"):
        write_weights(tmp_path / "out.safetensors", tensors, card)
    assert {p.name for p in tmp_path.glob("*.safetensors")} <= {"good.safetensors", path.name}
    assert not (tmp_path / "c.tif").exists()


@pytest.mark.parametrize("everywhere", [True, False])
def test_outputs_that_are_no_numbers_are_no_missing_data(
    tmp_path: Path,
    network: nn.Module,
    pair: ScenePair,
    monkeypatch: pytest.MonkeyPatch,
    everywhere: bool,
) -> None:
    """Finite weights may still overflow on values far beyond those of the training."""
    weights = saved(tmp_path / "w.safetensors", network)

    def broken(name: str, args: dict[str, Any]) -> nn.Module:
        made = build_network(name, args)

        def spoil(
            module: nn.Module, inputs: tuple[Tensor], outputs: dict[str, Tensor]
        ) -> dict[str, Tensor]:
            logits = outputs["logits"].clone()
            row, col = (size // 2 for size in logits.shape[-2:])  # not in the halo
            logits[... if everywhere else (..., row, col)] = torch.nan
            return {"logits": logits}

        made.register_forward_hook(spoil)
        return made

    monkeypatch.setattr(network_files, "receptive_radius", lambda *_: 8)
    saved(weights, network)
    monkeypatch.setattr(network_files, "build_network", broken)
    with pytest.raises(ModelError, match="expected numbers from w, found NaN or infinity at"):
        predict(pair, [tmp_path / "c.tif"], Options(model=str(weights)))
    assert not (tmp_path / "c.tif").exists()
    with pytest.raises(ModelError, match="expected numbers from w"):
        predict_pair(load_network(weights, "cpu", 1), *pair.read(Box(0, 0, 64, 64)))
