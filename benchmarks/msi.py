"""What multi-scale sigmoid inference costs over one pass at one scale, against arithmetic.

    python benchmarks/msi.py [--encoder resnet50-s16] [--scales paper] [--size 256] [--batch 4]

Two passes per scale, each s^2 times as large, are 2 * sum(s^2) passes. Both sides are given equally
many pixels at once. JSON on stdout; the best of ``--repeat`` measurements, one after the other in
turn, so that a disturbance meets both.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable

import torch
from machine import machine
from torch import Tensor

from rscd.inference.views import parse_scales
from rscd.methods.parts.multiscale import Views, msi, single_scale
from rscd.models.networks import build_network


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="resnet50-s16")
    parser.add_argument("--scales", default="paper")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4, help="pairs")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    network = build_network("cam", {"encoder": args.encoder}).eval().to(args.device)
    network = network.to(memory_format=torch.channels_last)
    shape = (args.batch, 2, 3, args.size, args.size)
    image = torch.randint(0, 256, shape).float().to(args.device)
    scales = parse_scales(args.scales)
    views = Views(scales, max_pixels=args.batch * args.size**2)

    def timed(run: Callable[..., Tensor]) -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            run(lambda x: network(x)["cam"], image, views)
        if args.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    timed(single_scale)
    single, multi = math.inf, math.inf
    for _ in range(args.repeat):
        single, multi = min(single, timed(single_scale)), min(multi, timed(msi))
    limit = 2 * sum(scale**2 for scale in scales)
    result = {
        "encoder": args.encoder,
        "scales": scales,
        "shape": shape,
        "single_s": single,
        "msi_s": multi,
        "ratio": multi / single,
        "limit": limit,
        "over_limit": multi / single / limit,
        "machine": machine("torch", "pillow"),
    }
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
