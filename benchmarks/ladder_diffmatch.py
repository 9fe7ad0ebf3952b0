"""Supervised only, FixMatch, UniMatch, DiffMatch and its parts on synthetic towns with few masks.

    python benchmarks/ladder_diffmatch.py ladder.jsonl [--seeds 3] [--steps 400] [--share 0/2]
    python benchmarks/ladder_diffmatch.py ladder.jsonl --summary

Every training appends one line of JSON as it ends; lines that are there already are not run again,
so a stopped ladder goes on. All rows of a seed begin with one network, trained for some steps on
the labelled pairs alone. ``--share I/N`` takes every N-th training: start one process per core on
the same file. The encoder is EfficientNet-Lite0 with ImageNet weights; towns of 64 pixels with
strong nuisances (``--nuisance``), guidance from a segmenter with faults
(`rscd.labels.guided_towns.FAULTS`). Checkpoints are chosen on validation towns; the test towns are
looked at once, and say as well for which share of their pixels the network would give a pseudo
label, and how many of these are right.
``--percent`` other than 5 and 10 measures the first rows with so many masks; of 100 the rest is all
of them. ``--pseudo`` says, threshold by threshold, which pseudo labels the network that all rows of
a seed begin with would give to the unlabelled towns. ``--summary`` prints tables.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from machine import machine
from pseudo_labels import by_threshold, confident_and_right, shares
from tables import markdown, spread
from torch.utils.data import Dataset

from rscd.labels.guided_towns import FAULTS, GuidedTowns
from rscd.metrics.pixels import MODE, MONITOR, count, summarise
from rscd.models.lite_encoder import IMAGENET
from rscd.models.smp_encoders import LITE
from rscd.synthetic.town_pairs import TownPairs
from rscd.training.module import ChangeDataModule, Stream
from rscd.training.task import ChangeTask

Sample = dict[str, Any]

TRAIN, VAL, TEST = 1000, 60, 120
"""Towns of each split."""
HOME = {"change_share": [0.3, 0.8], "gsd_m": 1.0, "fresh": False}
ABROAD = HOME | {"gsd_m": 0.7, "style": {"urban": [0.0, 0.3]}}
"""Where the unlabelled pairs of the cross-domain rows lie: closer, and hardly built up."""


@dataclass(frozen=True)
class Run:
    """One training."""

    group: str
    row: str
    variant: str
    percent: int
    seed: int
    recipe: dict[str, Any] = field(default_factory=dict)
    level: str = "mixed"
    abroad: bool = False


LADDER = ("supervised", "fixmatch", "unimatch", "diffmatch")
NUISANCE = 0.6
SURE = 0.95
"""Published confidence threshold."""
COMPONENTS = ("guided", "dual", "dual-contrast", "decoupled")
TUNED = 0.025
"""Of the distance over channels it is about what 0.1 is of the published one."""
WEIGHTS = (
    ("lambda_c", 1.0),
    ("lambda_c", TUNED),
    ("lambda_c", 0.01),
    ("lambda_vl", 1.0),
    ("lambda_vl", 0.01),
)
"""Table 9."""


def groups(percent: int | None) -> tuple[list[Run], ...]:
    """The rows of the tables, of seed 0, in the order of their weight."""
    if percent not in (None, 5, 10):
        return ([Run("ladder", variant, variant, percent, 0) for variant in LADDER],)
    return (
        [Run("ladder", variant, variant, 5, 0) for variant in LADDER],
        [
            Run("components", "guided, pixel labels", "guided", 5, 0, level="pixel"),
            *(Run("components", variant, variant, 5, 0) for variant in COMPONENTS),
        ],
        [Run("ladder", variant, variant, 10, 0) for variant in LADDER],
        [
            Run("weights", f"{name} {value}", "diffmatch", 5, 0, {name: value})
            for name, value in WEIGHTS
        ],
        [Run("abroad", variant, variant, 5, 0, abroad=True) for variant in LADDER[1:]],
        [
            Run("tuned", row, variant, percent, 0, recipe, abroad=far)
            for percent, far in ((10, False), (5, True))
            for row, variant, recipe in (
                (f"lambda_c {TUNED}", "diffmatch", {"lambda_c": TUNED}),
                ("decoupled", "decoupled", {}),
            )
        ],
    )


def runs(seeds: range, options: argparse.Namespace) -> Iterator[Run]:
    """What is asked for, group by group for all seeds, so that an early end leaves whole groups."""
    more: dict[str, Any] = options.recipe
    also = "".join(f", {name} {value}" for name, value in more.items())
    for group in groups(options.percent):
        for seed in seeds:
            for run in group:
                if (
                    run.group in (options.only or [run.group])
                    and run.row in (options.rows or [run.row])
                    and run.percent == (options.percent or run.percent)
                ):
                    yield replace(run, row=run.row + also, seed=seed, recipe=run.recipe | more)


class Towns:
    """The samples of every split in memory, drawn when they are first asked for."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Keep the sizes; ``shrink`` divides the numbers of towns."""
        self.size, self.shrink, self.cache = options.size, options.shrink, options.cache
        self.nuisance: float = options.nuisance
        self._known: dict[tuple[bool, str], list[Sample]] = {}

    def train(self, *, abroad: bool = False, level: str = "mixed") -> list[Sample]:
        """Towns with masks and guidance."""
        if (abroad, level) not in self._known:
            args = self._args(TRAIN, ABROAD if abroad else HOME, seed=11 if abroad else 1)
            towns = GuidedTowns(args, change=cast(Any, level))
            self._known[abroad, level] = [towns[i] for i in range(len(towns))]
        return self._known[abroad, level]

    def evaluation(self, count: int, seed: int) -> list[Sample]:
        """Towns of the home country with masks."""
        key = (False, f"evaluation {seed}")
        if key not in self._known:
            towns = TownPairs(**self._args(count, HOME, seed))
            self._known[key] = [towns[i] for i in range(len(towns))]
        return self._known[key]

    def _args(self, count: int, country: dict[str, Any], seed: int) -> dict[str, Any]:
        length = max(4, count // self.shrink)
        return country | {
            "length": length, "seed": seed, "patch_size": self.size, "cache": str(self.cache),
            "nuisance": {"strength": self.nuisance},
        }  # fmt: skip


def labels_quality(samples: Sequence[Sample]) -> dict[str, float]:
    """How good guidance is: change IoU over reliable pixels, and their share."""
    label = torch.stack([s["vl_change"] for s in samples])
    mask = torch.stack([s["mask"] for s in samples])
    used = label != 255
    found = summarise(count(label[used].numpy(), mask[used].numpy()))
    return {"iou_change": found["iou_change"], "reliable": float(used.float().mean())}


def begin(run: Run, towns: Towns, options: argparse.Namespace) -> dict[str, torch.Tensor]:
    """The network all rows of a seed and share begin with: trained on the labelled pairs alone.

    Kept beside the results. Without it a network of few steps calls nothing change, and unlabelled
    pairs confirm it.
    """
    names = ("encoder", "weights", "width", "lr", "start_steps", "size", "batch", "nuisance")
    settings = [getattr(options, name) for name in names]
    name = f"{run.percent}_{run.seed}_{zlib.crc32(json.dumps(settings).encode()):08x}"
    kept = options.out.with_name(f"start_{name}.pt")
    if not kept.exists():
        first = Run("start", "supervised", "supervised", run.percent, run.seed)
        task, _ = trained(first, towns, options, options.start_steps, None)
        torch.save(task.method.network.state_dict(), kept)
    return torch.load(kept, weights_only=True)  # type: ignore[no-any-return]


def divided(run: Run, towns: Towns) -> tuple[list[Sample], list[Sample]]:
    """Towns whose masks are used, and the others; of all of them the others are all again."""
    home = towns.train(level=run.level)
    count = max(2, len(home) * run.percent // 100)
    order = torch.randperm(len(home), generator=torch.Generator().manual_seed(run.seed)).tolist()
    few, many = ([home[i] for i in part] for part in (order[:count], order[count:]))
    return few, many or few


def untrained(run: Run, size: int, options: argparse.Namespace) -> ChangeTask:
    """Network, losses and optimiser before any step."""
    task = ChangeTask(
        method="diffmatch",
        method_args={
            "network": "siamese-mlp",
            "network_args": {
                "encoder": options.encoder,
                "weights": options.weights or None,
                "width": options.width,
            },
            "variant": run.variant,
            "recipe": run.recipe,
            "weak": {"patch_size": size},
        },
        lr=options.lr,
        optimizer="sgd",
        optimizer_args={"momentum": 0.9, "weight_decay": 1e-4},
        schedule="poly-lagged",
    )  # fmt: skip
    task.method.to(memory_format=torch.channels_last)  # a quarter less time with this encoder
    return task


def trained(
    run: Run,
    towns: Towns,
    options: argparse.Namespace,
    steps: int,
    start: dict[str, torch.Tensor] | None,
) -> tuple[ChangeTask, dict[str, Any]]:
    """One training; test metrics of the checkpoint that validation chose."""
    labeled, rest = divided(run, towns)
    streams = {
        "labeled": labeled,
        "unlabeled": towns.train(abroad=True, level=run.level) if run.abroad else rest,
        "val": towns.evaluation(VAL, 2),
        "test": towns.evaluation(TEST, 3),
    }
    task = untrained(run, towns.size, options)
    if start is not None:
        task.method.network.load_state_dict(start)
    data = ChangeDataModule(
        {name: Stream.of(cast("Dataset[Any]", samples)) for name, samples in streams.items()},
        batch_size=min(options.batch, len(labeled)),
        seed=run.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, "best", monitor=f"val/{MONITOR}", mode=MODE)
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=steps,
            val_check_interval=max(1, steps // 5),
            check_val_every_n_epoch=None,
            callbacks=[best],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(task, data)
        (found,) = trainer.test(task, data, best.best_model_path, verbose=False, weights_only=True)
    prob, mask = probabilities(task, streams["test"])
    test = {name.removeprefix("test/"): float(value) for name, value in found.items()}
    return task, test | {"pseudo": shares(confident_and_right(prob, mask, SURE))}


def probabilities(task: ChangeTask, samples: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,H,W) change probabilities and masks."""
    task.method.eval()
    with torch.inference_mode():
        batches = torch.stack([sample["image"] for sample in samples]).split(16)
        prob = torch.cat([task.method.predict(batch)[:, 0] for batch in batches])
    return prob, torch.cat([sample["mask"] for sample in samples])


def pseudo_labels(seeds: range, towns: Towns, options: argparse.Namespace) -> str:
    """Table of the pseudo labels that the first network of each seed gives to unlabelled towns."""
    found = []
    for seed in seeds:
        run = Run("start", "supervised", "supervised", options.percent or 5, seed)
        task = untrained(run, towns.size, options)
        task.method.network.load_state_dict(begin(run, towns, options))
        found.append((f"seed {seed}", *probabilities(task, divided(run, towns)[1])))
    return by_threshold(found)


def identity(line: dict[str, Any]) -> str:
    """What tells one training from another."""
    return json.dumps([line["run"], line["settings"]], sort_keys=True)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines there are; one cut off by a stop is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        line.setdefault("settings", {}).setdefault("nuisance", NUISANCE)  # earlier lines
        lines.append(line)
    return lines


def append(path: Path, line: dict[str, Any]) -> None:
    """One line, in one write."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def summary(lines: Sequence[dict[str, Any]]) -> str:
    """Markdown: what the rows found on the test towns, percent, and gain on the masks alone."""
    rows: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    for line in (line for line in lines if "run" in line):
        run, settings = line["run"], line["settings"]
        of = settings.get("start_steps"), settings.get("steps"), settings["nuisance"]
        where = ", from abroad" * run["abroad"]
        row = (*of, run["percent"], run["row"] + where)
        rows.setdefault(row, {})[run["seed"]] = line["test"]
    cells = []
    for (start, steps, nuisance, percent, row), by_seed in rows.items():
        alone = rows.get((start, steps, nuisance, percent, "supervised"), {})
        both = sorted(by_seed.keys() & alone.keys()) if row != "supervised" else []
        gains = [100 * (by_seed[s]["f1_change"] - alone[s]["f1_change"]) for s in both]
        tests = [by_seed[seed] for seed in sorted(by_seed)]
        pseudo = [test["pseudo"]["change"] for test in tests if "pseudo" in test]
        means = [statistics.mean(test[name] for test in tests) for name in ("precision", "recall")]
        f1, iou, best = (
            _percent([test[name] for test in tests])
            for name in ("f1_change", "iou_change", "best_iou_change")
        )
        mean_f1 = spread([100 * test["f1_change"] for test in tests])
        gain = spread(gains) if gains else ""
        labels = (_percent([one[key] for one in pseudo], 0) for key in ("confident", "right"))
        what = (f"{start} + {steps}, nuisance {nuisance}", f"{percent} %, {row}")
        cells.append([*what, mean_f1, f1, gain, iou, _percent(means, 0), best, *labels])
    head = ["steps", "training", "change F1", "of each seed", "gain", "change IoU of each seed"]
    head += ["precision, recall", "best change IoU", "changed pixels with a pseudo label"]
    return markdown([*head, "of these right"], cells)


def _percent(values: Sequence[float], digits: int = 1) -> str:
    return ", ".join(f"{100 * value:.{digits}f}" for value in values)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=250, help="of each row")
    parser.add_argument("--start-steps", type=int, default=300, help="on labelled pairs, before")
    parser.add_argument("--size", type=int, default=64, help="side of the towns, pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--encoder", default=LITE)
    parser.add_argument("--weights", default=IMAGENET, help="of the encoder; '' for random")
    parser.add_argument("--width", type=int, default=64, help="of the head")
    parser.add_argument("--lr", type=float, default=0.02, help="published")
    parser.add_argument("--nuisance", type=float, default=NUISANCE, help="of the towns")
    parser.add_argument("--shrink", type=int, default=1, help="divides the numbers of towns")
    parser.add_argument("--share", default="0/1", help="I/N: every N-th training from the I-th")
    parser.add_argument("--only", nargs="+", metavar="GROUP", help="ladder, components, weights...")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="supervised, fixmatch...")
    parser.add_argument("--percent", type=int, choices=range(1, 101), metavar="1..100")
    parser.add_argument("--recipe", type=json.loads, default={}, help='JSON: {"conf_thresh": 0.8}')
    parser.add_argument("--limit", type=int, help="stop after so many trainings")
    parser.add_argument("--cache", type=Path, default=Path("runs/ladder_towns"))
    parser.add_argument("--pseudo", action="store_true", help="only look at first pseudo labels")
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    if options.summary:
        print(summary(read(options.out)))
        return
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    settings = {
        key: getattr(options, key)
        for key in (
            "start_steps",
            "steps",
            "size",
            "batch",
            "encoder",
            "weights",
            "width",
            "lr",
            "shrink",
            "nuisance",
        )
    }
    towns = Towns(options)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    if options.pseudo:
        print(pseudo_labels(seeds, towns, options))
        return
    first, step = (int(part) for part in options.share.split("/"))
    done = {identity(line) for line in read(options.out) if "run" in line}
    wanted = [
        run
        for run in list(runs(seeds, options))[first::step]
        if identity({"run": asdict(run), "settings": settings}) not in done
    ][: options.limit]
    levels = {level: labels_quality(towns.train(level=level)) for level in ("mixed", "pixel")}
    about = {"faults": FAULTS, "labels": levels, **machine("torch", "timm", "lightning")}
    append(options.out, {"about": about, "settings": settings})
    for run in wanted:
        start, cpu = time.perf_counter(), time.process_time()
        seed_everything(run.seed, verbose=False)
        state = begin(run, towns, options)
        _, test = trained(run, towns, options, options.steps, state)
        line = {
            "run": asdict(run),
            "settings": settings,
            "test": test,
            "seconds": round(time.perf_counter() - start, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
        }
        append(options.out, line)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
