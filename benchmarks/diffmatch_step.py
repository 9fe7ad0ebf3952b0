"""One training step of DiffMatch over the arithmetic it needs, and over bare PyTorch.

    python benchmarks/diffmatch_step.py [--size 256] [--batch 8] [--encoder tu-resnet50] [--cuda]

Three things in one run, each with optimiser step, after a warm-up, in turn:

* ``step``: views, CutMix, five forwards, all losses, backwards, as the trainer goes through them;
* ``bare``: the same five forwards through the same layers transcribed in plain PyTorch, inputs
  ready, losses plain means, all graphs held until one backward;
* ``arithmetic``: multiply-adds of the forwards once and of the learning ones twice more, over the
  rate at which this machine multiplies matrices of the shapes of a 3 x 3 convolution.

Prints JSON: seconds (median), ratios, images per second, and the peak memory of either on a GPU, on
a processor the peak resident memory of a process of its own for each.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from machine import machine
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rscd.methods.diffmatch import DiffMatch

Step = Callable[[], None]


def batches(batch: int, size: int, device: str) -> dict[str, Any]:
    """Random pairs with random labels."""

    def stream(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        found = {"image": torch.rand(batch, 2, 3, size, size, generator=generator) * 255}
        for key in ("mask", "vl_change", "vl_t1", "vl_t2"):
            found[key] = torch.randint(0, 2, (batch, 1, size, size), generator=generator)
        return {key: value.to(device) for key, value in found.items()}

    return {"labeled": stream(0), "unlabeled": stream(1)}


def build(options: argparse.Namespace) -> DiffMatch:
    """The method with random weights; every pixel is confident, so that all gradients flow."""
    torch.manual_seed(0)
    method = DiffMatch(
        "siamese-mlp",
        {"encoder": options.encoder},
        weak={"patch_size": options.size},
        recipe={"conf_thresh": 0.0},
    )
    method.to(options.device)
    return method.to(memory_format=torch.channels_last)


def whole_step(method: DiffMatch, options: argparse.Namespace) -> Step:
    """What the trainer does."""
    data = batches(options.batch, options.size, options.device)
    optimizer = torch.optim.SGD(method.parameter_groups(1e-4), momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for part in method.loss_parts(data, 0, 10):
            torch.stack(list(part.values())).sum().backward()
        optimizer.step()

    return step


def fused(head: Any, levels: Sequence[Tensor]) -> Tensor:
    """Features of a light head."""
    size = levels[0].shape[-2:]
    parts = [
        F.interpolate(F.relu(conv.bn(conv.conv(level))), size, mode="bilinear")
        for conv, level in zip(head.convs, levels, strict=True)
    ]
    fusion = head.fusion_conv
    return F.relu(fusion.bn(fusion.conv(torch.cat(parts, 1))))


def forwards(method: DiffMatch, data: dict[str, Any]) -> list[Tensor]:
    """Partner without gradient; t1 and t2 of [labelled; weak]; t1 and t2 of strong."""
    network, segmentation = method.network, method.segmentation
    decoder, encoder = cast(Any, network.decoder), network.encoder
    unlabeled = data["unlabeled"]["image"]
    size = unlabeled.shape[-2:]

    def change(t1: Sequence[Tensor], t2: Sequence[Tensor]) -> Tensor:
        return fused(decoder, [(a - b).abs() for a, b in zip(t1, t2, strict=True)])

    network.eval()
    with torch.no_grad():
        both = network.normalize(unlabeled)
        q = change(encoder(both[:, 0])[2:], encoder(both[:, 1])[2:])
        F.interpolate(decoder.conv_seg(q), size, mode="bilinear")
    network.train()
    found = []
    for image in (torch.cat([data["labeled"]["image"], unlabeled]), unlabeled):
        both = network.normalize(image)
        t1, t2 = encoder(both[:, 0])[2:], encoder(both[:, 1])[2:]
        q, q1, q2 = change(t1, t2), fused(segmentation, t1), fused(segmentation, t2)
        maps = [decoder.conv_seg(q), method.vl_classifier(q)]
        maps += [segmentation.conv_seg(q1), segmentation.conv_seg(q2)]
        maps += [(q1 - q2 + 1e-6).square().sum(1, keepdim=True).sqrt()]
        found += [F.interpolate(value, size, mode="bilinear") for value in maps]
    return found


def bare_step(method: DiffMatch, options: argparse.Namespace) -> Step:
    """The five forwards alone, and one backward."""
    data = batches(options.batch, options.size, options.device)
    optimizer = torch.optim.SGD(method.parameter_groups(1e-4), momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.stack([value.mean() for value in forwards(method, data)]).sum().backward()
        optimizer.step()

    return step


STEPS = {"step": whole_step, "bare": bare_step}


def gmac(method: DiffMatch, options: argparse.Namespace) -> float:
    """Multiply-adds of a step, thousand millions: counted, not estimated."""
    step = bare_step(method, options)
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops()) / 2e9


def gmac_per_second(options: argparse.Namespace) -> float:
    """Rate of a matrix product as large as one 3 x 3 convolution of the third stage."""
    a = torch.rand(options.batch * (options.size // 16) ** 2, 2304, device=options.device)
    b = torch.rand(2304, 256, device=options.device)
    seconds = median(lambda: torch.mm(a, b), options)
    return a.shape[0] * 2304 * 256 / seconds / 1e9


def timed(step: Callable[[], Any], options: argparse.Namespace) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    step()
    if options.cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def median(step: Callable[[], Any], options: argparse.Namespace) -> float:
    """Median of some calls after one to warm up."""
    timed(step, options)
    return statistics.median(timed(step, options) for _ in range(options.repeat))


def peak_mib(name: str, options: argparse.Namespace) -> float:
    """Peak memory of two steps: on the GPU, or of this process."""
    torch.set_num_threads(options.threads)
    step = STEPS[name](build(options), options)
    if options.cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        step()
    if options.cuda:
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8, help="labeled, and unlabeled pairs")
    parser.add_argument("--encoder", default="tu-resnet50")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cuda", action="store_true")
    options = parser.parse_args()
    options.device = "cuda" if options.cuda else "cpu"
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = {name: pool.apply(peak_mib, (name, options)) for name in STEPS}
    torch.set_num_threads(options.threads)
    method = build(options)
    steps = {name: make(method, options) for name, make in STEPS.items()}
    for step in steps.values():
        step()
    turns = [{n: timed(step, options) for n, step in steps.items()} for _ in range(options.repeat)]
    seconds = {name: statistics.median(turn[name] for turn in turns) for name in steps}
    work = gmac(method, options)
    seconds["arithmetic"] = work / gmac_per_second(options)
    report = {
        "batch": [options.batch, options.batch],
        "size": options.size,
        "encoder": options.encoder,
        "device": torch.cuda.get_device_name() if options.cuda else f"{options.threads} threads",
        "gmac": round(work, 1),
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "step_over_bare": round(seconds["step"] / seconds["bare"], 3),
        "step_over_arithmetic": round(seconds["step"] / seconds["arithmetic"], 3),
        "pairs_per_second": round(2 * options.batch / seconds["step"], 2),
        "peak_mib": {name: round(value) for name, value in peaks.items()},
    }
    print(json.dumps({**machine("torch", "timm"), **report}, indent=2))


if __name__ == "__main__":
    main()
