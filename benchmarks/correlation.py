"""Time and memory of local correlation, forward and backward, against plain formulations.

    python benchmarks/correlation.py [--channels 128] [--side 130] [--device cuda]

``unfold`` makes every shifted copy at once, ``shifts`` goes over the shifts one by one, both with
PyTorch's own gradient; ``blocks`` is `rscd.models.correlation.local_correlation`. Each runs in a
process of its own, in turns, so that peaks of memory are its own.
"""

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from machine import machine
from torch import Tensor

from rscd.models.correlation import local_correlation


def unfold(t2: Tensor, t1: Tensor, radius: int = 4) -> Tensor:
    """The definition with all shifted copies in memory."""
    side = 2 * radius + 1
    shifted = F.unfold(t1, side, padding=radius).view(*t1.shape[:2], side**2, *t1.shape[2:])
    return (t2[:, :, None] * shifted).mean(1)


def shifts(t2: Tensor, t1: Tensor, radius: int = 4) -> Tensor:
    """One product per shift."""
    height, width = t2.shape[-2:]
    padded, side = F.pad(t1, (radius,) * 4), 2 * radius + 1
    parts = [
        (t2 * padded[..., y : y + height, x : x + width]).mean(1)
        for y in range(side)
        for x in range(side)
    ]
    return torch.stack(parts, 1)


FORMULATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "unfold": unfold,
    "shifts": shifts,
    "blocks": local_correlation,
}


def inputs(args: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Features of both dates, and a gradient from above."""
    random = torch.Generator().manual_seed(0)
    shape = (args.batch, args.channels, args.side, args.side)
    t2, t1 = (torch.randn(shape, generator=random).to(args.device) for _ in range(2))
    up = torch.randn(args.batch, 81, args.side, args.side, generator=random).to(args.device)
    return t2.requires_grad_(), t1.requires_grad_(), up


def measure(name: str, args: argparse.Namespace, results: "multiprocessing.Queue[object]") -> None:
    """Seconds forward and backward (medians), extra peak memory, largest difference."""
    torch.set_num_threads(args.threads)
    t2, t1, up = inputs(args)
    before = peak(args.device)
    seconds: dict[str, list[float]] = {"forward": [], "backward": []}
    for _ in range(args.repeats + 1):
        started = clock(args.device)
        out = FORMULATIONS[name](t2, t1)
        middle = clock(args.device)
        out.backward(up)
        seconds["forward"].append(middle - started)
        seconds["backward"].append(clock(args.device) - middle)
        extra = peak(args.device) - before
    with torch.no_grad():
        gap = float((FORMULATIONS[name](t2, t1) - shifts(t2, t1)).abs().max())
    found = {key: round(median(values[1:]), 4) for key, values in seconds.items()}
    results.put({"name": name, **found, "extra_mb": round(extra / 1e6), "max_gap": gap})


def peak(device: str) -> int:
    """Bytes held at most so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def clock(device: str) -> float:
    """Seconds, after all queued work."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Run all formulations and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--side", type=int, default=130, help="130: level 1 of images of 520")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    rows = []
    for name in FORMULATIONS:
        results = spawn.Queue()
        process = spawn.Process(target=measure, args=(name, args, results))
        process.start()
        rows.append(results.get())
        process.join()
    print(json.dumps({"machine": machine("torch"), "settings": vars(args), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
