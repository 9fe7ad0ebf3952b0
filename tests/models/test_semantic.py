"""The network that ships: local, the same whichever date comes first, small."""

import pytest
import torch
from torch import nn

from rscd.models.networks import build_network, receptive_radius
from rscd.models.semantic import SemanticChangeNet


@pytest.fixture(scope="module")
def network() -> SemanticChangeNet:
    torch.manual_seed(0)
    built = build_network("semantic", {}).eval()
    assert isinstance(built, SemanticChangeNet)
    return built


def test_order_of_dates_is_free(network: SemanticChangeNet) -> None:
    image = torch.rand(1, 2, 3, 64, 96) * 255
    with torch.inference_mode():
        forth, back = network(image)["logits"], network(image.flip(1))["logits"]
    assert forth.shape == (1, 1, 64, 96)
    torch.testing.assert_close(back, forth, atol=1e-5, rtol=1e-4)


def test_buildings_are_given_in_training_alone_and_date_by_date() -> None:
    torch.manual_seed(0)
    network = build_network("semantic", {})
    image = torch.rand(2, 2, 3, 32, 32) * 255
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # statistics of the batch would tie the dates together
    first = network(image)["buildings"]
    changed = image.clone()
    changed[0, 1] = 0
    second = network(changed)["buildings"]
    assert first.shape == (2, 2, 16, 16)
    torch.testing.assert_close(second[0, 0], first[0, 0])
    torch.testing.assert_close(second[1], first[1])
    assert (second[0, 1] - first[0, 1]).abs().max() > 1e-4
    assert "buildings" not in network.eval()(image)


def test_it_is_local(network: SemanticChangeNet) -> None:
    radius = receptive_radius(network, 3)
    assert radius is not None
    assert radius <= 144
    assert not any("Pool" in type(module).__name__ for module in network.modules())
