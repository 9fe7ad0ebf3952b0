"""The ladder of FMA (WACV 2024, Tables 2 to 4) on generated domains, with the compact network.

    python benchmarks/ladder_scene.py RESULTS.jsonl [--seeds 0 1 2] [--only L_sup both]
    python benchmarks/ladder_scene.py RESULTS.jsonl --show

A labelled synthetic domain and an unlabelled target domain with another look: other backgrounds,
colours and a stronger shift of the viewpoint; the target is also tested in the dark. As in the
paper every run starts from one pretrained network, whose encoder (EfficientNet-Lite0) starts from
ImageNet; a seed decides the pairs and the chance of the
second stage. Results are appended line by line, and what a file already holds is not run again, so
an interrupted ladder goes on. ``--show`` prints mean and deviation per row. Also measured:
end-point error against no flow at all, exchanged dates, and F1 for viewpoint shifts from 0 to 64
pixels beside a detector without flow, trained on the same pairs (``--plot FILE.png``).
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from machine import machine
from tables import spread
from torch import Tensor

from rscd.base.types import Batch
from rscd.methods.scene import Scene, ScenePretrain
from rscd.methods.supervised import Supervised
from rscd.models.lite_encoder import DEVIATION, IMAGENET, MEAN
from rscd.models.smp_encoders import LITE
from rscd.synthetic.street_pairs import StreetSettings, SyntheticStreet

SIZE = 96
BATCH, PRETRAIN_BATCH = 4, 8
PRETRAIN_SEED = 77
SHIFTS = (0, 8, 16, 32, 64)


def network_of(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of a method: its network."""
    encoder = {"encoder": args.encoder, "encoder_weights": args.weights or None}
    statistics = {"mean": [MEAN] * 3, "std": [DEVIATION] * 3} if args.weights else {}
    return {
        "network": "scene-compact",
        "network_args": {"low_size": SIZE, **encoder, **statistics},
    }


OFF = {"unsup_weight": 0.0, "distill_weight": 0.0}
ROWS: dict[str, dict[str, Any]] = {
    "L_sup": OFF,
    "l_feat": {"distill_weight": 0.0, "lambda1": 0.0, "lambda2": 0.0},
    "l_feat+l_cr": {"distill_weight": 0.0, "lambda2": 0.0},
    "l_feat+l_sm": {"distill_weight": 0.0, "lambda1": 0.0},
    "L_unsup": {"distill_weight": 0.0},
    "L_dist": {"unsup_weight": 0.0},
    "both": {},
    "both, shared decoder": {"separate_decoders": False},
    "L_unsup, lambda1 1": {"distill_weight": 0.0, "lambda1": 1.0},
    "both, lambda1 1": {"lambda1": 1.0},
}
"""Rows of the tables; all also learn from labelled pairs."""


def source() -> StreetSettings:
    """Settings of the labelled domain."""
    return StreetSettings(size=SIZE, strength=0.4)


def target() -> StreetSettings:
    """Settings of the target domain: new and missing things, more parallax."""
    return StreetSettings(
        size=SIZE,
        strength=0.7,
        kinds=("static", "new", "missing"),
        transforms=(("homography", 0.5), ("tps", 0.5)),
        object_area=(0.02, 0.12),
    )


def looks(image: Tensor, seed: int, *, dark: bool = False) -> Tensor:
    """The target's look: warm haze and grain; and little light at the later date."""
    random = torch.Generator().manual_seed(seed)
    tint = torch.tensor([1.0, 0.85, 0.65]).view(3, 1, 1)
    seen = 0.6 * image * tint + 60
    if dark:
        seen = torch.stack([seen[:, 0], 0.25 * seen[:, 1]], 1)
    return (seen + 6 * torch.randn(seen.shape, generator=random)).clamp(0, 255)


def gathered(settings: StreetSettings, count: int, seed: int) -> Batch:
    """A whole domain in memory."""
    data = SyntheticStreet(count, seed=seed, settings=settings)
    samples = [data[index] for index in range(count)]
    keys = ("image", "mask", "flow", "valid")
    return {key: torch.stack([s[key] for s in samples]) for key in keys}  # type: ignore[return-value]


def rows_of(batch: Batch, indices: Tensor) -> Batch:
    """Some pairs of a domain."""
    return {key: value[indices] for key, value in batch.items()}  # type: ignore[return-value,index]


def domains(seed: int, pairs: int) -> dict[str, Batch]:
    """Everything one seed needs: `pairs` to train on in each domain, half as many to test on."""
    base = 1000 * (seed + 1)
    unlabeled = gathered(target(), pairs, base + 1)
    tests = gathered(target(), pairs // 2, base + 2)
    dark = dict(tests) | {"image": looks(tests["image"], seed + 1, dark=True)}
    return {
        "train": gathered(source(), pairs, base),
        "target": {"image": looks(unlabeled["image"], seed)},
        "normal": {**tests, "image": looks(tests["image"], seed + 1)},
        "dark": dark,  # type: ignore[dict-item]
    }


def trained(
    method: Any, data: Mapping[str, Batch], steps: int, lr: float, seed: int, batch: int = BATCH
) -> Any:
    """Carry out some steps of AdamW."""
    streams = [name for name in method.needs if name in data]
    optimizer = torch.optim.AdamW(method.parameter_groups(lr), lr=lr, weight_decay=4e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1)
    order = torch.Generator().manual_seed(seed)
    method.train()
    for step in range(steps):
        torch.manual_seed(seed * 100_003 + step)
        batches = {}
        for name in streams:
            chosen = torch.randint(len(data[name]["image"]), (batch,), generator=order)
            batches[name] = rows_of(data[name], chosen)
        optimizer.zero_grad()
        for part in method.loss_parts(batches, step, steps):
            torch.stack(list(part.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    return method.eval()


@torch.inference_mode()
def change_f1(network: torch.nn.Module, batch: Batch) -> float:
    """F1 of change in percent, pooled."""
    counts = torch.zeros(3)
    for start in range(0, len(batch["image"]), 8):
        rows = slice(start, start + 8)
        found = network(batch["image"][rows])["logits"] >= 0
        true = batch["mask"][rows] == 1
        counts += torch.tensor([(found & true).sum(), found.sum(), true.sum()])
    return float(200 * counts[0] / (counts[1] + counts[2]).clamp(min=1))


@torch.inference_mode()
def flow_errors(network: torch.nn.Module, batch: Batch) -> tuple[float, float]:
    """End-point error in pixels over valid ones: of the network, and of no flow at all."""
    flow = torch.cat([network(image)["flow"] for image in batch["image"].split(8)])
    valid = batch["valid"][:, 0]
    errors = ((flow - batch["flow"]).norm(dim=1)[valid], batch["flow"].norm(dim=1)[valid])
    return float(errors[0].mean()), float(errors[1].mean())


def shifted(batch: Batch, pixels: int) -> Batch:
    """Pairs whose t1 is moved to the left by some pixels; the masks lie on t2 and stay."""
    t1 = batch["image"][:, 0]
    moved = torch.cat([t1[..., pixels:], t1[..., -1:].expand(*t1.shape[:-1], pixels)], -1)
    return {"image": torch.stack([moved, batch["image"][:, 1]], 1), "mask": batch["mask"]}


def robustness(network: torch.nn.Module, batch: Batch) -> dict[str, Any]:
    """F1 with dates exchanged, and by shift of the viewpoint."""
    exchanged: Batch = {"image": batch["image"].flip(1), "mask": batch["mask"]}
    return {
        "f1_exchanged": change_f1(network, exchanged),
        "f1_by_shift": {str(s): change_f1(network, shifted(batch, s)) for s in SHIFTS},
    }


def measured(networks: Mapping[str, torch.nn.Module], data: Mapping[str, Batch]) -> dict[str, Any]:
    """All that is said of a run."""
    found: dict[str, Any] = {}
    for who, network in networks.items():
        network.eval()
        found |= {f"{who}_{name}": change_f1(network, data[name]) for name in ("normal", "dark")}
        found[f"{who}_epe"], found["epe_no_flow"] = flow_errors(network, data["normal"])
    return found | robustness(networks["student"], data["normal"])


def runs(args: argparse.Namespace, done: set[tuple[int, str]]) -> Iterator[dict[str, Any]]:
    """Carry out what is missing."""
    wanted = args.only or ["no flow", "pretrained", *ROWS]
    for seed in args.seeds:
        missing = [row for row in wanted if (seed, row) not in done]
        if not missing:
            continue
        data = domains(seed, args.pairs)
        if "no flow" in missing:
            yield {"seed": seed, "row": "no flow", **without_flow(data, args)}
        state = pretrained(args)
        for row in missing:
            if row == "no flow":
                continue
            started = time.perf_counter()
            torch.manual_seed(seed)
            method = Scene(**network_of(args), **ROWS.get(row, OFF))
            method.network.load_state_dict(state)
            if method.teacher is not None:
                method.teacher.load_state_dict(method.network.decoder.state_dict())
            if row != "pretrained":
                trained(method, data, args.steps, args.lr, seed)
            networks = {"student": method.network, "teacher": method.teacher_network()}
            seconds = round(time.perf_counter() - started, 1)
            yield {"seed": seed, "row": row, **measured(networks, data), "seconds": seconds}


def first_stage(name: str, method: Any, args: argparse.Namespace) -> dict[str, Tensor]:
    """Tensors of a network after training on labelled pairs; kept beside the results."""
    settings = [args.pretrain_pairs, args.pretrain_steps, args.encoder, Path(args.weights).name]
    kept = args.results.with_name("_".join(map(str, [name, *settings])) + ".pt")
    if not kept.exists():
        data = {"train": gathered(source(), args.pretrain_pairs, PRETRAIN_SEED)}
        trained(method, data, args.pretrain_steps, 2e-3, PRETRAIN_SEED, PRETRAIN_BATCH)
        torch.save(method.network.state_dict(), kept)
    return torch.load(kept, weights_only=True)  # type: ignore[no-any-return]


def pretrained(args: argparse.Namespace) -> dict[str, Tensor]:
    """The network that every row starts from."""
    torch.manual_seed(PRETRAIN_SEED)
    method = ScenePretrain(**network_of(args), epe_reduction="mean")
    return first_stage("pretrained", method, args)


def without_flow(data: Mapping[str, Batch], args: argparse.Namespace) -> dict[str, Any]:
    """A detector that compares pixel by pixel, trained as long as the pretraining."""
    torch.manual_seed(PRETRAIN_SEED)
    scaling = {"mean": [110.0] * 3, "std": [60.0] * 3}
    method = Supervised("tiny", scaling, {"bce": 1.0, "dice": 1.0})
    method.network.load_state_dict(first_stage("no_flow", method, args))
    network = method.network.eval()
    found = {f"student_{name}": change_f1(network, data[name]) for name in ("normal", "dark")}
    return found | robustness(network, data["normal"])


def show(lines: list[dict[str, Any]]) -> None:
    """Mean and deviation over the seeds, per row."""
    names = ("student_normal", "student_dark", "teacher_normal", "teacher_dark", "student_epe")
    print("| row | seeds | " + " | ".join((*names, "f1_exchanged")) + " |")
    print("|---" * (len(names) + 3) + "|")
    for row in dict.fromkeys(line["row"] for line in lines):
        mine = [line for line in lines if line["row"] == row]
        cells = []
        for name in (*names, "f1_exchanged"):
            values = [line[name] for line in mine if name in line]
            cells.append(spread(values) if values else "")
        print(f"| {row} | {len(mine)} | " + " | ".join(cells) + " |")


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """F1 by shift of the viewpoint, mean over the seeds, rows with and without flow."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for row in dict.fromkeys(line["row"] for line in lines):
        if row not in ("no flow", "pretrained", "both"):
            continue
        mine = [line["f1_by_shift"] for line in lines if line["row"] == row]
        axes.plot(SHIFTS, [mean(own[str(s)] for own in mine) for s in SHIFTS], "o-", label=row)
    axes.set(xlabel=f"t1 moved by pixels, of {SIZE}", ylabel="change F1, %", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run, or show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=120, help="of each row")
    parser.add_argument("--pretrain-steps", type=int, default=2500)
    parser.add_argument("--pretrain-pairs", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=96, help="to train on, in each domain")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--encoder", default=LITE, help="'compact' for the network's own")
    parser.add_argument("--weights", default=IMAGENET, help="of the encoder; '' for random")
    parser.add_argument("--only", nargs="+", choices=["no flow", "pretrained", *ROWS])
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw what there is")
    args = parser.parse_args()
    lines = []
    if args.results.exists():
        lines = [json.loads(line) for line in args.results.read_text().splitlines()]
    if args.plot is not None:
        plot(lines, args.plot)
    if args.show:
        show(lines)
    if args.show or args.plot is not None:
        return
    names = ("steps", "pretrain_steps", "pretrain_pairs", "pairs", "lr", "encoder", "weights")
    settings = {name: getattr(args, name) for name in names}
    done = {(line["seed"], line["row"]) for line in lines if line["settings"] == settings}
    for found in runs(args, done):
        line = json.dumps(found | {"settings": settings, "machine": machine("torch")})
        with args.results.open("a") as file:
            file.write(line + "\n")
        print(found["row"], found["seed"], round(found["student_normal"], 1), flush=True)


if __name__ == "__main__":
    main()
