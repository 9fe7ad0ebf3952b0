"""Training through the trainer and the loader, over a bare PyTorch loop with the same network.

    python benchmarks/train_step.py [--network tiny] [--patch-size 128] [--batch-size 8]
        [--steps 12] [--rounds 3] [--workers 1] [--precision 32] [--device cpu]

Both train on the same towns with the same optimiser and loss. The bare loop has all its batches in
memory beforehand; ours reads and stacks them as it goes, logs, schedules and counts. Rounds
alternate between the two, after one round of each that does not count. Prints JSON: images per
second of both and their ratio, in wall clock and in processor time, the share of a step our loop
waits for data, and peak memory.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
import warnings
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from machine import machine
from torch import Tensor

from rscd.methods.parts.losses import mask_loss
from rscd.models.logits import change_logit
from rscd.models.networks import build_network
from rscd.training.module import ChangeDataModule
from rscd.training.task import ChangeTask


class Clock(Callback):
    """Times the steps of a fit and what passes between them."""

    def __init__(self, skip: int) -> None:
        self.skip = skip
        self.seconds = self.cpu = self.waited = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch is here."""
        if batch_idx == self.skip:
            self.start, self.start_cpu = time.perf_counter(), time.process_time()
        elif batch_idx > self.skip:
            self.waited += time.perf_counter() - self.ended

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The next batch is asked for."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ended = time.perf_counter()
        if batch_idx >= self.skip:
            self.seconds = self.ended - self.start
            self.cpu = time.process_time() - self.start_cpu


def data(options: argparse.Namespace, folder: str, steps: int) -> ChangeDataModule:
    """The towns of one round, drawn once and read from disk afterwards."""
    towns = {
        "length": steps * options.batch_size,
        "patch_size": options.patch_size,
        "fresh": False,
        "cache": folder,
    }
    stream = {"class_path": "rscd.synthetic.town_pairs.TownPairs", "init_args": towns}
    return ChangeDataModule(
        {"train": stream}, batch_size=options.batch_size, num_workers=options.workers
    )


def ours(options: argparse.Namespace, module: ChangeDataModule) -> dict[str, float]:
    """One pass through the trainer."""
    clock = Clock(skip=2)
    task = ChangeTask("supervised", {"network": options.network, "network_args": {"std": [50] * 3}})
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator=options.device, devices=1, max_epochs=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            precision=options.precision, callbacks=[clock], default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(task, module)
    return {"seconds": clock.seconds, "cpu": clock.cpu, "waited": clock.waited}


def bare(options: argparse.Namespace, batches: list[dict[str, Tensor]]) -> dict[str, float]:
    """The same without anything."""
    device = torch.device(options.device)
    network = build_network(options.network, {"std": [50] * 3}).train().to(device)
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    half = options.precision == "bf16-mixed"
    for number, batch in enumerate(batches):
        if number == 2:
            start, start_cpu = time.perf_counter(), time.process_time()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logit = change_logit(network(batch["image"].to(device))["logits"])
            loss = mask_loss(logit, batch["mask"].to(device), "bce")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - start_cpu}


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="tiny")
    parser.add_argument("--patch-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--precision", default="32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found: dict[str, list[dict[str, float]]] = {"ours": [], "bare": []}
    with tempfile.TemporaryDirectory() as folder:
        module = data(options, folder, options.steps + 2)
        module.needs = {"train": {"image", "mask"}}
        module.setup("fit")
        batches = [batch["train"] for batch, _, _ in module.train_dataloader()]  # draws the towns
        module.teardown("fit")
        for _ in range(options.rounds + 1):
            found["ours"].append(ours(options, module))
            found["bare"].append(bare(options, batches))
    counted = {name: rounds[1:] for name, rounds in found.items()}
    images = options.steps * options.batch_size

    def rate(name: str, clock: str) -> float:
        return float(images / statistics.median(r[clock] for r in counted[name]))

    report = {
        "settings": vars(options),
        "images_per_second": {name: round(rate(name, "seconds"), 2) for name in found},
        "ratio_wall": round(rate("ours", "seconds") / rate("bare", "seconds"), 3),
        "ratio_cpu": round(rate("ours", "cpu") / rate("bare", "cpu"), 3),
        "share_waiting": round(
            statistics.median(r["waited"] / r["seconds"] for r in counted["ours"]), 4
        ),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **machine(),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
