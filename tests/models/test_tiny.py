"""The small network is small, and sees exactly as far as its layers say."""

import math

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rscd.models.networks import build_network, receptive_radius
from rscd.models.tiny import DEPTHS, WIDTHS


def seen(first: int, last: int) -> tuple[int, int]:
    """First and last pixel of the image that output pixels first..last look at, layer by layer."""

    def conv(span: tuple[int, int], stride: int = 1) -> tuple[int, int]:
        return stride * span[0] - 1, stride * span[1] + 1

    def upsampled(span: tuple[int, int]) -> tuple[int, int]:
        # bilinear, half-pixel centres: output o lies at (o + 0.5) / 2 - 0.5 between two inputs
        return math.floor((span[0] - 0.5) / 2), math.floor((span[1] - 0.5) / 2) + 1

    def hull(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        return min(a[0], b[0]), max(a[1], b[1])

    span = conv((first // 2, last // 2))  # pixel shuffle, head
    wanted = []
    for level in range(len(WIDTHS)):
        span = conv(span)  # block of the decoder
        wanted.append(span)  # lateral of this level
        if level < len(WIDTHS) - 1:
            span = upsampled(span)
    span = wanted[-1]
    for level in range(len(WIDTHS) - 1, -1, -1):
        span = hull(span, wanted[level])
        for _ in range(DEPTHS[level] - 1):
            span = conv(span)
        span = conv(span, stride=2 if level else 1)
    return conv(span, stride=2)  # stem


def test_radius_is_that_of_the_layers() -> None:
    network = build_network("tiny", {})
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.abs_()  # no path cancels another
            if isinstance(module, nn.BatchNorm2d):
                module.bias.fill_(1.0)  # and no activation cuts one off
    size = 512
    first, last = seen(size // 2, size // 2 + 31)
    expected = max(size // 2 - first, last - size // 2 - 31)
    assert receptive_radius(network, 3, size, negligible=0) == expected
    assert expected < 128


def test_prediction_in_tiles_with_that_halo_is_the_whole_one() -> None:
    torch.manual_seed(0)
    network = build_network("tiny", {}).eval()
    radius = receptive_radius(network, 3)
    assert radius is not None
    halo = -(-radius // 16) * 16
    side = 2 * halo + 64
    image = torch.rand(1, 2, 3, side, side) * 255
    with torch.inference_mode():
        whole = network(image)["logits"][..., halo : halo + 32, halo : halo + 32]
        tile = image[..., 0 : 2 * halo + 32, 0 : 2 * halo + 32]
        part = network(tile)["logits"][..., halo : halo + 32, halo : halo + 32]
    torch.testing.assert_close(whole, part, atol=1e-5, rtol=1e-4)


def test_it_is_small() -> None:
    network = build_network("tiny", {}).eval()
    assert sum(p.numel() for p in network.parameters()) < 1_000_000
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 2, 3, 256, 256))
    assert counter.get_total_flops() / 2 < 1.0e9  # multiply-adds


def test_it_is_made_of_local_layers() -> None:
    kinds = {type(module) for module in build_network("tiny", {}).modules()}
    norms = {kind for kind in kinds if kind.__name__.endswith(("Norm", "Norm2d"))}
    assert norms == {nn.BatchNorm2d}
    assert not any("Pool" in kind.__name__ for kind in kinds)
