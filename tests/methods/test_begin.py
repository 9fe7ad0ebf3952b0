"""Trained weights to begin with reach whatever a method made from its network."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from rscd.methods.base import Method
from rscd.methods.kdmsi import KdMsi
from rscd.methods.registry import METHODS
from rscd.models.networks import build_network

CAM = {"encoder": "tu-test_resnet", "output_stride": 16}
ARGS: dict[str, tuple[str, dict[str, Any]]] = {
    "supervised": ("tiny", {}),
    "detector": ("tiny", {}),
    "building-change": ("semantic", {}),
    "building-change-mixed": ("semantic-lite", {}),
    "cam": ("cam", CAM | {"combination": "minus"}),
    "kdmsi": ("cam", CAM | {"combination": "minus"}),
    "diffmatch": ("siamese-mlp", {"encoder": "tu-test_resnet"}),
    "scene-pretrain": ("scene-compact", {"low_size": 64}),
    "scene": ("scene-compact", {"low_size": 64}),
}


def test_every_method_is_here() -> None:
    assert ARGS.keys() == METHODS.keys()


def mirrored(method: Method) -> Iterator[tuple[str, str]]:
    """Pairs of names: a tensor beside the network, and the network's own that it mirrors."""
    own = {f"network.{name}" for name in method.network.state_dict()}
    for name in method.state_dict():
        inner = name.removeprefix("teacher.")
        for twin in (f"network.{inner}", f"network.decoder.{inner}"):
            if name not in own and inner != name and twin in own:
                yield name, twin


@pytest.mark.parametrize("name", ARGS)
def test_what_mirrors_the_network_begins_with_it(name: str) -> None:
    torch.manual_seed(1)
    trained = build_network(*ARGS[name])
    torch.manual_seed(2)
    network, network_args = ARGS[name]
    method = METHODS[name](network=network, network_args=network_args)
    method.begin(trained.state_dict())
    for key, value in trained.state_dict().items():
        assert torch.equal(method.network.state_dict()[key], value), key
    state, pairs = method.state_dict(), list(mirrored(method))
    assert bool(pairs) == (name in ("kdmsi", "scene"))
    for twin, own in pairs:
        assert torch.equal(state[twin], state[own]), twin


def test_a_teacher_of_another_combination_keeps_its_classifier(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trained: Any = build_network("cam", CAM | {"combination": "cat"})
    method: Any = KdMsi("cam", CAM | {"combination": "cat"}, teacher="abs")
    fresh = method.teacher.classifier.weight.clone()
    with caplog.at_level(logging.INFO):
        method.begin(trained.state_dict())
    assert "only the encoder of the teacher is initialised" in caplog.text
    assert torch.equal(method.teacher.classifier.weight, fresh)
    for key, value in trained.model.state_dict().items():
        assert torch.equal(method.teacher.model.state_dict()[key], value), key
