"""Size and speed of every network, as ratios to a siamese U-Net on MobileNetV2.

    python benchmarks/networks.py [--size 256] [--repeat 5] [--threads 1] [--only tiny ...]

Random weights, one pair of three bands, eval mode, channels last as `rscd predict` lays networks
out. In each repeat all networks run one after the other, so that a busy moment of the machine hits
all of them alike; the median counts. Prints JSON: parameters, multiply-adds of convolutions and
matrix products, seconds, and the ratio of seconds to the yardstick's.
"""

import argparse
import json
import statistics
import time
from typing import Any

import torch
from machine import machine
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rscd.models.networks import NETWORKS, build_network

YARDSTICK = "siamese-unet mobilenet_v2"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    YARDSTICK: ("siamese-unet", {"encoder": "mobilenet_v2"}),
    **{name: (name, {}) for name in NETWORKS},
}


def gmac(network: nn.Module, image: Tensor) -> float:
    """Multiply-adds of one forward pass, in thousand millions."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(image)
    return float(counter.get_total_flops()) / 2e9


def seconds(network: nn.Module, image: Tensor) -> float:
    """One forward pass."""
    start = time.perf_counter()
    with torch.inference_mode():
        network(image)
    return time.perf_counter() - start


def measure(names: list[str], size: int, repeat: int) -> dict[str, dict[str, float]]:
    """Numbers by name of variant."""
    image = torch.rand(1, 2, 3, size, size) * 255
    networks = {}
    for name in names:
        network, args = VARIANTS[name]
        built = build_network(network, args).eval()
        networks[name] = built.to(memory_format=torch.channels_last)
    numbers = {
        name: {
            "parameters": sum(p.numel() for p in network.parameters()),
            "gmac": round(gmac(network, image), 3),  # also warms up
        }
        for name, network in networks.items()
    }
    runs = [{n: seconds(network, image) for n, network in networks.items()} for _ in range(repeat)]
    medians = {name: statistics.median(run[name] for run in runs) for name in networks}
    for name, median in medians.items():
        numbers[name]["seconds"] = round(median, 4)
        numbers[name]["ratio"] = round(median / medians[YARDSTICK], 3)
    return numbers


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = [YARDSTICK, *(name for name in options.only if name != YARDSTICK)]
    numbers = measure(names, options.size, options.repeat)
    report = {"size": options.size, "threads": options.threads, "networks": numbers}
    print(json.dumps({**machine("torch", "timm", "torchgeo"), **report}, indent=2))


if __name__ == "__main__":
    main()
