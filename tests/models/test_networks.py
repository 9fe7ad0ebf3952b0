"""What every network promises, whatever it is."""

import inspect
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rscd.inference.weights as network_files
from rscd.base.errors import ModelError
from rscd.inference.network import load_network, loaded, save_weights
from rscd.models.folding import folded
from rscd.models.networks import (
    NETWORKS,
    build_network,
    bytes_per_pixel,
    probe_image,
    receptive_radius,
)

LIGHT = {"encoder": "tu-test_resnet", "width": 16}
UNET = {"encoder": "resnet18", "decoder_channels": [32, 16, 8]}
SMALL: dict[str, Any] = {
    "siamese-unet": UNET,
    "siamese-mlp": LIGHT,
    "siamese-deeplab": {"encoder": "tu-test_resnet", "batch_norm": "normal"},
    "cam": {"encoder": "tu-test_resnet", "combination": "abs"},
    "simsac": {"low_size": 64},
    "scene-compact": {"low_size": 64},
    "fc-siam-diff": UNET,
    "fc-siam-conc": UNET,
    "changevit": {"img_size": 64},
}
"""Arguments of networks whose defaults are too large for a test."""

HEAVY = ("btc", "simsac")
"""They have no small form."""
FAST = [name for name in NETWORKS if name not in HEAVY]
EVERY = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)]


def build(name: str, n_bands: int = 3, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_network(name, {**SMALL.get(name, {}), "n_bands": n_bands, **more})


def pairs(n: int = 2, n_bands: int = 3, height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 2, n_bands, height, width, generator=generator) * 255


def logit(logits: Tensor) -> Tensor:
    return logits if logits.shape[1] == 1 else logits[:, 1:] - logits[:, :1]


def test_small_arguments_belong_to_networks() -> None:
    assert SMALL.keys() <= NETWORKS.keys()


@pytest.mark.parametrize("n_bands", [1, 4, 13])  # those of three are in all other tests
@pytest.mark.parametrize("name", EVERY)
def test_logits_have_the_size_of_the_image(name: str, n_bands: int) -> None:
    network = build(name, n_bands).eval()
    for height, width in [(64, 64), (96, 64)]:
        with torch.inference_mode():
            logits = network(pairs(1, n_bands, height, width))["logits"]
        assert logits.shape[0] == 1
        assert logits.shape[1] in (1, 2)
        assert logits.shape[2:] == (height, width)
        assert logits.dtype == torch.float32
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", FAST)
def test_n_classes_is_free_where_it_is_an_argument(name: str) -> None:
    if "n_classes" in inspect.signature(NETWORKS[name]).parameters:
        for n_classes in (1, 2):
            network = build(name, n_classes=n_classes).eval()
            with torch.inference_mode():
                assert network(pairs(1))["logits"].shape[1] == n_classes


@pytest.mark.parametrize("name", EVERY)
def test_other_sizes_and_bands_are_user_errors(name: str) -> None:
    network: Any = build(name).eval()
    assert 64 % network.multiple == 0
    wrong = network.multiple + 1
    with torch.inference_mode():
        if network.multiple == 1 or getattr(network, "any_size", False):
            assert network(pairs(1, 3, 64 + wrong, 64))["logits"].shape[2] == 64 + wrong
        else:
            fix = -(-(64 + wrong) // network.multiple) * network.multiple
            with pytest.raises(ModelError, match=f"multiples of {network.multiple}.*{fix}x64"):
                network(pairs(1, 3, 64 + wrong, 64))
        with pytest.raises(ModelError, match=r"\(B,2,3,H,W\), found \(1, 2, 4, 64, 64\)"):
            network(pairs(1, 4))
        with pytest.raises(ModelError, match="image pairs"):
            network(pairs(1)[:, 0])
        with pytest.raises(ModelError, match="image pairs"):
            network(torch.cat([pairs(1), pairs(1)], dim=1))


@pytest.mark.parametrize("name", EVERY)
def test_gradients_reach_every_parameter(name: str) -> None:
    network = build(name, 4).train()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():  # last scales of residual blocks start at zero
                parameter.fill_(0.1)
    out = network(pairs(2, 4))
    maps = [value for value in out.values() if value.ndim == 4]
    # squares: the mean of a normalised map has no gradient
    sum(value.square().mean() for value in maps).backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("name", FAST)
def test_one_pair_is_a_batch_to_train_on(name: str) -> None:
    out = build(name).train()(pairs(1))["logits"]
    out.mean().backward()
    assert torch.isfinite(out).all()


@pytest.mark.slow
def test_btc_trains_on_two_pairs_at_least() -> None:
    network = build("btc").train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(pairs(1))


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("tiny", {}),
        ("cam", {"combination": "abs"}),
        *((name, {"fusion": "abs"}) for name in SMALL if name.startswith("siamese")),
    ],
)
def test_exchanged_dates_give_the_same_logits(name: str, more: dict[str, Any]) -> None:
    network = build(name, **more).eval()
    with torch.inference_mode():
        image = pairs(2)
        there, back = network(image)["logits"], network(image.flip(1))["logits"]
        torch.testing.assert_close(there, back, atol=1e-5, rtol=1e-4)
        # and that is no accident of equal dates
        image[:, 1] = image[:, 0]
        assert not torch.allclose(network(image)["logits"], there)


@pytest.mark.parametrize("name", EVERY)
def test_a_pair_does_not_depend_on_its_batch(name: str) -> None:
    network = build(name).eval()
    image = pairs(3)
    with torch.inference_mode():
        whole = network(image)["logits"]
        alone = network(image[1:2])["logits"]
    torch.testing.assert_close(whole[1:2], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_normalisation_lies_in_the_network(name: str) -> None:
    plain = build(name, mean=[0.0] * 3, std=[1.0] * 3).eval()
    scaled = build(name, mean=[100.0, 50.0, 0.0], std=[2.0, 4.0, 8.0]).eval()
    raw = pairs(1)
    by_hand = (raw - torch.tensor([100.0, 50.0, 0.0])[:, None, None]) / torch.tensor(
        [2.0, 4.0, 8.0]
    )[:, None, None]
    with torch.inference_mode():
        torch.testing.assert_close(
            scaled(raw)["logits"], plain(by_hand)["logits"], atol=1e-4, rtol=1e-4
        )
    assert any(key.endswith("mean") for key in scaled.state_dict())


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are measured on 512 pixels when they are saved; another test does it on less."""
    monkeypatch.setattr(network_files, "receptive_radius", lambda *_: None)
    monkeypatch.setattr(network_files, "bytes_per_pixel", lambda *_: 100)


@pytest.mark.parametrize("name", EVERY)
def test_weights_go_through_a_file(name: str, tmp_path: Path, unmeasured: None) -> None:
    network = build(name, 4)
    with torch.no_grad():
        network.train()(pairs(2, 4))  # running statistics that are not the initial ones
    network.eval()
    path = tmp_path / "weights.safetensors"
    args: dict[str, Any] = {**SMALL.get(name, {}), "n_bands": 4}
    card = {"halo": 0, "patch_size": 64, "multiple": network.multiple, "threshold": 0.5}
    save_weights(path, network, name, args, card)
    model = load_network(path, "cpu", 1)
    image = pairs(2, 4)
    # as loaded, with the same rounding: batch norms folded, the order of sums
    network = folded(network, probe_image(network, 4)).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = network(image)["logits"]
        found = loaded(path, "cpu", model.sha256)(image)["logits"]
    torch.testing.assert_close(found, expected)
    prob = model(image.numpy(), np.ones((2, 64, 64), dtype=bool))
    assert prob.shape == (2, 64, 64)
    np.testing.assert_allclose(prob, logit(expected).sigmoid()[:, 0], atol=1e-3)


@pytest.mark.parametrize("name", EVERY)
def test_radius_and_memory_can_be_measured(name: str) -> None:
    network = build(name).train()
    radius = receptive_radius(network, 3, 64)
    assert radius is None or 0 < radius < 64
    assert 0 < bytes_per_pixel(network, 3, 50) < 1_000_000
    assert all(p.grad is None for p in network.parameters()), "measuring leaves no gradient"


def test_radius_of_a_known_network() -> None:
    class Blur(nn.Module):
        multiple = 4

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            kernel = torch.ones(1, 3, 7, 7)
            return {"logits": F.conv2d(image[:, 1] + image[:, 0], kernel, padding=3)}

    assert receptive_radius(Blur(), 3, 126) == 3


def test_measuring_the_radius_draws_no_random_numbers() -> None:
    network = build("tiny")
    state = torch.get_rng_state()
    receptive_radius(network, 3, 64)
    assert torch.equal(state, torch.get_rng_state())


def squares() -> tuple[Tensor, Tensor]:
    """Four pairs: noise, and a bright square that appears at another place in each."""
    image = 50 + pairs(4, seed=1) / 5
    mask = torch.zeros(4, 1, 64, 64)
    for i in range(4):
        y, x = divmod(i, 2)
        mask[i, :, 16 * y : 16 * y + 32, 16 * x : 16 * x + 32] = 1
    image[:, 1] += 100 * mask
    return image, mask


@pytest.mark.parametrize("name", FAST)  # `scene-compact` has the heads of `simsac`
def test_overfits_four_tiny_pairs(name: str) -> None:
    image, mask = squares()
    # the smallest encoder is too narrow for maps of the last stage
    wider: dict[str, Any] = {"encoder": "tu-resnet18"} if name == "cam" else {}
    network = build(name, mean=[100.0] * 3, std=[50.0] * 3, **wider)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5  # few steps: the running statistics must follow
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(logit(network.train()(image)["logits"]), mask)
        loss.backward()
        optimizer.step()
        with torch.inference_mode():
            found = logit(network.eval()(image)["logits"]) > 0
        overlap = (found & (mask > 0)).sum() / (found | (mask > 0)).sum()
        if overlap > OVERLAP:
            return
    pytest.fail(f"overlap {float(overlap):.2f}, loss {loss.item():.3f}")


OVERLAP = 0.7
"""Maps of stride 16, as of the classifier, cannot draw the square's corners."""


def test_unknown_names_are_user_errors() -> None:
    with pytest.raises(ModelError, match=r"network among tiny, .*found 'unet'"):
        build_network("unet", {})
    with pytest.raises(
        ModelError, match=r"of tiny: expected n_bands.*, symmetric, found depth, size"
    ):
        build_network("tiny", {"size": 3, "depth": 2})
    with pytest.raises(ModelError, match="mean and positive std for 3 bands"):
        build_network("tiny", {"mean": [1.0], "std": [1.0] * 3})
    with pytest.raises(ModelError, match="mean and positive std for 3 bands"):
        build_network("tiny", {"std": [1.0, 0.0, 1.0]})


def test_building_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in FAST:
            build(name)


@pytest.mark.parametrize("name", ["fc-siam-conc", "siamese-unet"])
def test_symmetric_prediction_does_not_depend_on_the_order_of_dates(
    name: str, tmp_path: Path, unmeasured: None
) -> None:
    network = build(name, symmetric=True).eval()
    plain = build(name).eval()
    image = pairs()
    found, swapped = (network(x)["logits"] for x in (image, image.flip(1)))
    assert torch.allclose(found, swapped, atol=1e-5)
    assert not torch.allclose(plain(image)["logits"], plain(image.flip(1))["logits"], atol=1e-5)
    card: dict[str, Any] = {
        "halo": 16,
        "multiple": network.multiple,
        "patch_size": 64,
        "threshold": 0.5,
    }
    save_weights(
        tmp_path / "s.safetensors", network, name, {**SMALL.get(name, {}), "symmetric": True}, card
    )
    model = load_network(tmp_path / "s.safetensors", "cpu", 1)
    again = model(image.numpy(), np.ones((2, 2, 64, 64), bool))
    assert np.allclose(again, logit(found).sigmoid()[:, 0].detach(), atol=1e-5)
