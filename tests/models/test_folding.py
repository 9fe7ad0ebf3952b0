"""Folding of batch norms, against the networks as they were trained."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rscd.models.folding import folded
from rscd.models.networks import build_network, probe_image


def trained(name: str, **args: Any) -> nn.Module:
    """A network whose batch norms have statistics of their own."""
    torch.manual_seed(0)
    network = build_network(name, args)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                module.running_mean.normal_()
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 2)
                module.weight.normal_(1, 0.2)
                module.bias.normal_()
    return network.eval()


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("semantic-lite", {}),
        ("tiny", {}),
        ("siamese-unet", {"n_bands": 3, "encoder": "resnet18", "weights": None}),
    ],
)
@torch.inference_mode()
def test_outputs_stay_and_batch_norms_go(name: str, args: dict[str, Any]) -> None:
    network = trained(name, **args)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    light = folded(network, probe_image(network, 3))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in light.modules())
    image = 50 * torch.rand(1, 2, 3, 96, 96)
    before, now = network(image), light(image)
    assert before.keys() == now.keys()
    for key, value in before.items():
        torch.testing.assert_close(now[key], value, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


class Crossed(nn.Module):
    """Declares a norm after a convolution that it does not follow."""

    multiple = 1

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 1)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.conv(self.norm(image.flatten(1, 2)))}


def test_a_network_of_another_order_stays_as_it_is() -> None:
    torch.manual_seed(0)
    network = Crossed()
    assert network.norm.running_mean is not None
    network.norm.running_mean.fill_(2)
    assert network.norm.running_var is not None
    network.norm.running_var.fill_(3)
    network.eval()
    assert folded(network, probe_image(network, 3)) is network


class Annotated(nn.Module):
    """One of its outputs is no tensor."""

    def __init__(self, note: object) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.note = note

    def forward(self, image: Tensor) -> dict[str, object]:
        return {"logits": self.norm(self.conv(image.flatten(1, 2))), "note": self.note}


@pytest.mark.parametrize(("note", "same"), [(None, True), ([1], False)])
def test_outputs_that_are_no_tensors_must_be_the_very_same(note: object, same: bool) -> None:
    network = Annotated(note).eval()
    light = folded(network, torch.rand(1, 2, 3, 8, 8))
    assert (light is not network) == same
    assert any(isinstance(module, nn.BatchNorm2d) for module in light.modules()) != same
