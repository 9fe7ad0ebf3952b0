"""The scene networks: structure, units, padding, and which loss reaches which part."""

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import vgg16
from torchvision.models.vgg import cfgs, make_layers

from rscd.base.errors import ModelError
from rscd.models.flow import convert_unit
from rscd.models.networks import build_network, receptive_radius
from rscd.models.scene import Levels, SceneNetwork, pad_to_multiple
from rscd.models.scene_compact import PlainFlowHead, scene_compact
from rscd.models.simsac import simsac

DEAD = 2 * (16 + 1)
"""Two upsamplers of the release from one channel to one, whose output nobody uses."""


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def pairs(height: int, width: int, n: int = 1, bands: int = 3) -> Tensor:
    return 255 * torch.rand(
        n, 2, bands, height, width, generator=torch.Generator().manual_seed(height + width)
    )


def compact(**more: object) -> SceneNetwork:
    """With flow heads that do not begin at zero."""
    torch.manual_seed(0)
    network = scene_compact(**{"low_size": 64, **more})  # type: ignore[arg-type]
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return network


@pytest.fixture(scope="module")
def full() -> SceneNetwork:
    torch.manual_seed(0)
    return simsac()


def test_parameters_are_those_of_the_paper_less_the_dead_ones(full: SceneNetwork) -> None:
    assert count(full) == 18_153_248 - DEAD
    assert count(full.encoder) == 7_635_264
    decoder = full.decoder
    assert count(decoder.start) == 630_914
    assert [count(head) for head in decoder.flow_heads] == [2_130_010, 1_036_760, 2_140_414]
    assert count(decoder.flow_ups) == 2 * 66
    assert decoder.context_up is not None
    assert count(decoder.context_up) == 16_994
    two = simsac(n_classes=2)
    assert count(two) == 18_154_600 - 132
    assert [count(head) for head in two.decoder.change_heads] == [
        1_808_258,
        1_016_834,
        1_016_834,
        721_922,
    ]


def test_compact_parameters() -> None:
    network = scene_compact()
    assert count(network.decoder) == 465_644
    assert count(network.encoder) == 158_512 - (16 * 32 + 32) - (9 * 32 * 32 + 32)


def grids(levels: Levels) -> list[tuple[int, ...]]:
    assert [x.shape[-2:] for x in levels.flow] == [x.shape[-2:] for x in levels.change]
    return [tuple(x.shape[-2:]) for x in levels.flow]


def test_grids_of_images_of_520(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # unknown on meta
    with torch.inference_mode(), torch.device("meta"):  # shapes without values
        full = simsac().eval()
        t1, t2 = full.encode(torch.empty(1, 2, 3, 520, 520), all_strides=True)
        assert [x.shape[-1] for x in t1.high] == [260, 130, 65, 32]
        assert grids(full.decoder(t1, t2)) == [(16, 16), (32, 32), (65, 65), (130, 130)]


def test_grids_of_images_of_128(full: SceneNetwork) -> None:
    with torch.inference_mode():
        levels = full.eval().decoder(*full.encode(pairs(128, 128)))
    assert grids(levels) == [(16, 16), (32, 32), (16, 16), (32, 32)]
    assert [x.shape[1] for x in (*levels.flow, *levels.change)] == [2] * 4 + [1] * 4


def test_compact_begins_with_no_flow_at_all() -> None:
    network = scene_compact().eval()
    with torch.inference_mode():
        levels = network.decoder(*network.encode(pairs(64, 96)))
    assert grids(levels) == [(8, 8), (16, 16), (8, 12), (16, 24)]
    assert not any(flow.any() for flow in levels.flow)


@pytest.mark.parametrize("shape_hw", [(61, 50), (64, 56), (1, 9)])
def test_padding_is_undone(shape_hw: tuple[int, int]) -> None:
    network = compact().eval()
    image = pairs(*shape_hw)
    with torch.inference_mode():
        found = network(image)
        padded = network(pad_to_multiple(image))
    height, width = shape_hw
    assert found["logits"].shape == (1, 1, height, width)
    assert found["flow"].shape == (1, 2, height, width)
    for name in ("logits", "flow"):  # flow counts pixels: cutting leaves its values alone
        assert torch.equal(found[name], padded[name][..., :height, :width])


def test_padding_repeats_the_last_pixels() -> None:
    image = pairs(9, 16)
    padded = pad_to_multiple(image)
    assert padded.shape[-2:] == (16, 16)
    assert torch.equal(padded[..., :9, :], image)
    assert torch.equal(padded[..., 12, :], image[..., 8, :])


def test_levels_are_refused_for_sizes_that_do_not_divide() -> None:
    network = compact()
    with pytest.raises(ModelError, match=r"multiples of 8, found 60x64; pad to 64x64"):
        network.encode(pairs(60, 64))


def test_the_unit_changes_exactly_once_between_branches() -> None:
    """With heads that correct nothing, every level says the same displacement in its unit."""
    network = scene_compact(low_size=64).eval()

    class Constant(nn.Module):
        def forward(self, matches: Tensor) -> Tensor:
            flow = torch.tensor([8.0, -4.0]).view(1, 2, 1, 1)  # of 64 x 64
            return flow.expand(len(matches), 2, *matches.shape[-2:])

    network.decoder.start = Constant()
    with torch.inference_mode():
        levels = network.decoder(*network.encode(pairs(96, 160)))
        out = network(pairs(96, 160))["flow"]
    for level, unit in enumerate([(64, 64), (64, 64), (96, 160), (96, 160)]):
        expected = convert_unit(torch.tensor([8.0, -4.0]).view(2, 1, 1), (64, 64), unit)
        torch.testing.assert_close(
            levels.flow[level], expected.expand_as(levels.flow[level]), atol=1e-4, rtol=0
        )
    torch.testing.assert_close(out[0, :, 50, 70], torch.tensor([20.0, -6.0]), atol=1e-4, rtol=0)


def test_a_level_adds_its_correction_to_the_flow() -> None:
    head = PlainFlowHead(9).eval()
    flow, correlation = torch.randn(1, 2, 8, 8), torch.randn(1, 9, 8, 8)
    assert torch.equal(head(correlation, flow, None)[0], flow)  # it begins without one
    last = head.layers[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    with torch.no_grad():
        last.bias.copy_(torch.tensor([2.0, -1.0]))
    found, passed_on = head(correlation, flow, None)
    torch.testing.assert_close(found, flow + torch.tensor([2.0, -1.0]).view(1, 2, 1, 1))
    assert passed_on is correlation


def silent(module: nn.Module) -> bool:
    return all(p.grad is None or not p.grad.any() for p in module.parameters())


@pytest.mark.parametrize("name", ["simsac", "scene-compact"])
def test_which_loss_reaches_which_part(name: str) -> None:
    torch.manual_seed(0)
    built = build_network(name, {"low_size": 64})
    assert isinstance(built, SceneNetwork)
    network = built.train()
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    twin = copy.deepcopy(network)
    decoder = network.decoder
    levels = decoder(*network.encode(pairs(64, 64, 2)))
    sum(x.square().mean() for x in levels.flow).backward()
    assert all(silent(part) for part in (decoder.change_heads, decoder.change_ups))
    assert not any(silent(head) for head in decoder.flow_heads)

    decoder = twin.decoder
    levels = decoder(*twin.encode(pairs(64, 64, 2)))
    sum(x.square().mean() for x in levels.change).backward()
    assert [silent(head) for head in decoder.flow_heads] == [False, False, True]
    assert not silent(decoder.start)
    assert not any(silent(head) for head in decoder.change_heads)
    ups = [up for up in decoder.change_ups if count(up)]
    assert not any(silent(up) for up in ups)
    assert not silent(twin.encoder)


def test_detached_pyramids_keep_gradients_from_the_encoder() -> None:
    network = compact()
    t1, t2 = network.encode(pairs(64, 64), all_strides=True)
    levels = network.decoder(t1.detach(), t2.detach())
    sum(x.square().mean() for x in (*levels.flow, *levels.change)).backward()
    assert all(p.grad is None for p in network.encoder.parameters())
    assert all(not x.requires_grad for x in (*t1.detach().high, *levels.detach().flow))


def test_two_classes_gate_like_one() -> None:
    """A softmax over two logits is the sigmoid of their difference."""
    two = compact(n_classes=2).eval()
    one = copy.deepcopy(two)
    for head in one.decoder.change_heads:
        assert isinstance(head, nn.Sequential)
        last = head[-1]
        assert isinstance(last, nn.Conv2d)
        single = nn.Conv2d(last.in_channels, 1, 3, padding=1)
        single.weight.data = last.weight.data[1:] - last.weight.data[:1]
        assert single.bias is not None
        assert last.bias is not None
        single.bias.data = last.bias.data[1:] - last.bias.data[:1]
        head[-1] = single
    with torch.inference_mode():
        pair = two(pairs(64, 64))["logits"]
        difference = pair[:, 1:] - pair[:, :1]
        torch.testing.assert_close(difference, one(pairs(64, 64))["logits"], atol=1e-5, rtol=1e-4)


def test_vgg_weights_go_through_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source: Any = nn.Module()
    source.features = make_layers(cfgs["D"], batch_norm=False)
    with torch.device("meta"):
        named = vgg16(weights=None).state_dict()
    own = source.state_dict()
    assert all(named[name].shape == value.shape for name, value in own.items())
    rest = {"classifier.0.bias": torch.zeros(4096)}  # what else the published file holds
    torch.save(own | rest, tmp_path / "vgg16.pth")
    network = simsac(weights=str(tmp_path / "vgg16.pth"))
    image = torch.rand(1, 3, 64, 64)
    cuts = (5, 10, 17, 24)
    with torch.inference_mode():
        for found, cut in zip(network.encoder(image), cuts, strict=True):
            torch.testing.assert_close(found, source.features[:cut](image))
    bands = simsac(n_bands=4, weights=str(tmp_path / "vgg16.pth"))
    gray = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():  # equal bands look the same, however many
        torch.testing.assert_close(
            bands.encoder(gray.expand(1, 4, 64, 64))[3],
            network.encoder(gray.expand(1, 3, 64, 64))[3],
            atol=1e-4,
            rtol=1e-3,
        )


def test_imagenet_weights_are_asked_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import VGG16_Weights

    torch.manual_seed(2)
    tensors = {k: torch.randn_like(v) for k, v in simsac().encoder.state_dict().items()}
    asked: list[object] = []

    def state(self: object, **options: object) -> dict[str, Tensor]:
        asked.append(self)
        return tensors

    monkeypatch.setattr(VGG16_Weights, "get_state_dict", state)
    network = simsac(weights="imagenet")
    assert asked == [VGG16_Weights.IMAGENET1K_V1]
    for name, value in network.encoder.state_dict().items():
        assert torch.equal(value, tensors[name])

    def offline(self: object, **options: object) -> dict[str, Tensor]:
        raise OSError("no route to host")

    monkeypatch.setattr(VGG16_Weights, "get_state_dict", offline)
    with pytest.raises(ModelError, match=r"VGG-16.*no route to host.*weights: null"):
        simsac(weights="imagenet")


def test_training_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    network = compact()
    state = {f"method.network.{k}": v for k, v in network.state_dict().items()}
    state["method.teacher.start.layers.0.0.weight"] = torch.zeros(1)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "pretrained.ckpt")
    again = scene_compact(low_size=64, weights=str(tmp_path / "pretrained.ckpt"))
    for name, value in again.state_dict().items():
        assert torch.equal(value, network.state_dict()[name])
    with pytest.raises(ModelError, match=r"tensors of this scene network in .*pretrained.ckpt"):
        scene_compact(low_size=128, weights=str(tmp_path / "pretrained.ckpt"))


def test_unusable_arguments_are_user_errors() -> None:
    for builder in (simsac, scene_compact):
        with pytest.raises(ModelError, match="multiple of 16, found 100"):
            builder(low_size=100)
        with pytest.raises(ModelError, match="or null, found 'coco'"):
            builder(weights="coco")


def test_another_encoder_fits_the_same_heads() -> None:
    network = compact(encoder="resnet18").eval()
    with torch.inference_mode():
        assert network(pairs(64, 64))["flow"].shape == (1, 2, 64, 64)


def test_they_are_not_local_and_say_so() -> None:
    assert receptive_radius(compact(), 3) is None
