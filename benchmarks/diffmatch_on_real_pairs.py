"""What unlabelled real pairs bring beside a few labelled ones: DiffMatch and its baselines.

    python benchmarks/diffmatch_on_real_pairs.py DATA OUT [--seeds 0 1 2] [--steps 100]
    python benchmarks/diffmatch_on_real_pairs.py DATA OUT --summary
    python benchmarks/diffmatch_on_real_pairs.py DATA OUT --pseudo

DATA holds the sets of ``train_on_real_pairs.py``, brought to about 0.5 m, and folders of pairs in
``unlabelled``. Of each set's training pairs a seed labels a few (``--labelled`` of those with
change, and as many without); the others, without their masks, and the pairs of ``unlabelled`` are
the many. The encoder is EfficientNet-Lite0 with ImageNet weights; all rows of a seed begin with one
network, trained for ``--start-steps`` on the labelled pairs alone. Guidance are the change events
of a segmenter, kept in OUT. No pair is left to validate on: the last weights count, and scores are
at the published threshold, 0.5, and at the best of the test pairs themselves (``best``, which the
papers report). Test pairs also show what pseudo labels are worth: which share of the changed and of
the unchanged pixels passes the confidence threshold, and how much of that is right.

One JSON line per training in OUT/results.jsonl; a training whose line is there is not run again,
and ``--summary`` prints mean and deviation over the seeds. ``--pseudo`` says, threshold by
threshold, which pseudo labels the network that all rows of a seed begin with would give to the
unlabelled training pairs whose masks are known.
"""

import argparse
import json
import time
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer, seed_everything
from machine import machine
from pseudo_labels import by_threshold, confident_and_right, shares
from tables import markdown, spread
from torch.utils.data import Dataset
from train_on_real_pairs import SETS, prepare

from rscd.base.types import LAYERS
from rscd.data.folder import PairFolder
from rscd.geo.measure import ground_of
from rscd.labels.from_segmenter import LabelOptions, labels_of
from rscd.methods.parts.diffmatch_recipe import VARIANTS
from rscd.metrics.pixels import count, summarise
from rscd.metrics.probabilities import ChangeMetrics
from rscd.models.lite_encoder import IMAGENET
from rscd.models.smp_encoders import LITE
from rscd.segmenters.prompts import BACKGROUND, FOREGROUND, parse_prompts
from rscd.segmenters.segmenter import View, load_segmenter
from rscd.segmenters.stitch import segment
from rscd.training.module import ChangeDataModule, Stream
from rscd.training.task import ChangeTask

GSD_M = 0.5
SHOWN = ("f1_change", "precision", "recall")

Sample = dict[str, Any]


class Patches(Dataset[Sample]):
    """Random windows of samples in memory."""

    def __init__(
        self, samples: Sequence[Sample], length: int, side: int, seed: int, changed: float = 0.0
    ) -> None:
        """Keep them; `length` windows of `side` pixels, at least `changed` of them with change.

        Change is what the mask says, or guidance where there is no mask.
        """
        self.samples, self.length, self.side, self.seed = samples, length, side, seed
        self.changed = changed

    def __len__(self) -> int:
        """Number of windows."""
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Window number `index` of a sample drawn by its size."""
        random = np.random.default_rng((self.seed, index))
        wanted = random.random() < self.changed
        window = self._window(random)
        for _ in range(49 if wanted else 0):
            change = window["mask" if "mask" in window else "vl_change"]
            if (change == 1).float().mean() > 0.01:
                break
            window = self._window(random)
        return window

    def _window(self, random: np.random.Generator) -> Sample:
        areas = np.array([np.prod(s["image"].shape[-2:]) for s in self.samples], float)
        sample = self.samples[random.choice(len(areas), p=areas / areas.sum())]
        height, width = sample["image"].shape[-2:]
        top, left = random.integers((height - self.side + 1, width - self.side + 1))
        window = (..., slice(top, top + self.side), slice(left, left + self.side))
        maps = {key: value for key, value in sample.items() if isinstance(value, torch.Tensor)}
        return {key: value[window] for key, value in maps.items()}


def guided(sample: Sample, segmenter: Any) -> Sample:
    """The sample with labels of change and of each date."""
    prompts = parse_prompts(FOREGROUND, BACKGROUND)
    dates = [
        segment(segmenter, View(date.permute(1, 2, 0).byte().numpy(), gsd_m=GSD_M), prompts)
        for date in sample["image"]
    ]
    rules = LabelOptions(min_object_m2=20).filled(segmenter)
    labels = labels_of(dates, rules, ground_of(None, GSD_M))
    maps = (labels.mixed, labels.seg1, labels.seg2)
    layers = {
        name: torch.from_numpy(mask[None].astype(np.int64))
        for name, mask in zip(LAYERS, maps, strict=True)
    }
    return sample | layers


def samples_of(data: PairFolder) -> list[Sample]:
    """All of a folder."""
    return [data[index] for index in range(len(data))]


def gathered(
    args: argparse.Namespace, *, guidance: bool
) -> tuple[dict[str, list[Sample]], list[Sample]]:
    """Training pairs with masks by set, and pairs without; with guidance, kept in OUT, if asked."""
    masked = {
        name: PairFolder(args.out / "pairs" / name, "train", keys={"image", "mask"})
        for name in SETS
    }
    places = sorted((args.data / "unlabelled").iterdir())
    bare = [PairFolder(place, keys={"image"}) for place in places]
    without = [sample for data in bare for sample in samples_of(data)]
    if not guidance:
        return {name: samples_of(data) for name, data in masked.items()}, without
    kept = args.out / f"guided_{args.segmenter}.pt"
    if not kept.exists():
        segmenter = load_segmenter(args.segmenter, {})
        of_masked = {
            name: [guided(sample, segmenter) for sample in samples_of(data)]
            for name, data in masked.items()
        }
        torch.save((of_masked, [guided(sample, segmenter) for sample in without]), kept)
    return torch.load(kept, weights_only=False)  # type: ignore[no-any-return]


def divided(
    masked: Mapping[str, Sequence[Sample]], count: int, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Of each set `count` pairs with change and as many without; and all the others."""
    random = np.random.default_rng(seed)
    few, many = [], []
    for samples in masked.values():
        order = [samples[i] for i in random.permutation(len(samples))]
        parts = [[s for s in order if bool((s["mask"] == 1).any()) == with_] for with_ in (1, 0)]
        few += [s for part in parts for s in part[:count]]
        many += [s for part in parts for s in part[count:]]
    return few, many


def untrained(args: argparse.Namespace, row: Mapping[str, Any]) -> ChangeTask:
    """Network, losses and optimiser before any step."""
    task = ChangeTask(
        method="diffmatch",
        method_args={
            "network": "siamese-mlp",
            "network_args": {
                "encoder": args.encoder,
                "weights": args.weights or None,
                "width": args.width,
            },
            "variant": row["variant"],
            "recipe": row["recipe"],
            "weak": {"patch_size": args.side, "p_vflip": 0.5, "rot90": True},
        },
        lr=args.lr,
        optimizer="sgd",
        optimizer_args={"momentum": 0.9, "weight_decay": 1e-4},
        schedule="poly-lagged",
    )
    task.method.to(memory_format=torch.channels_last)
    return task


def trained(
    labelled: Sequence[Sample], unlabelled: Sequence[Sample], seed: int, args: argparse.Namespace,
    row: Mapping[str, Any], state: Mapping[str, torch.Tensor] | None = None,
) -> ChangeTask:  # fmt: skip
    """One training; `state` is the network it begins with."""
    seed_everything(seed, verbose=False)
    task = untrained(args, row)
    if state is not None:
        task.method.network.load_state_dict(state)
    length = row["steps"] * args.batch
    streams = {
        "labeled": Patches(labelled, length, args.side, seed, row["changed"]),
        "unlabeled": Patches(unlabelled, length, args.side, seed + 1, row["changed_unlabelled"]),
    }
    needs: Mapping[str, Any] = task.method.needs
    data = ChangeDataModule(
        {name: Stream.of(streams[name]) for name in needs},
        batch_size=args.batch,
        seed=seed,
        needs=needs,
    )
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=row["steps"], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(task, data)
    task.method.eval()
    return task


def begin(
    labelled: Sequence[Sample], seed: int, args: argparse.Namespace, row: Mapping[str, Any]
) -> Mapping[str, torch.Tensor] | None:
    """The network all rows of a seed begin with: trained on the labelled pairs alone, kept in OUT.

    Without it pseudo labels of the first steps are those of a network that knows nothing.
    """
    if not args.start_steps:
        return None
    first = dict(row) | {"variant": "supervised", "steps": args.start_steps, "recipe": {}}
    first["changed_unlabelled"] = 0.0
    name = f"{seed}_{zlib.crc32(json.dumps(first, sort_keys=True).encode()):08x}"
    kept = args.out / f"start_{name}.pt"
    if not kept.exists():
        torch.save(trained(labelled, [], seed, args, first).method.network.state_dict(), kept)
    return torch.load(kept, weights_only=True)  # type: ignore[no-any-return]


def probability(task: ChangeTask, image: torch.Tensor) -> torch.Tensor:
    """(1,H,W) change probability of a whole pair."""
    height, width = image.shape[-2:]
    padded = F.pad(image, (0, -width % 32, 0, -height % 32), mode="reflect")[None]
    with torch.inference_mode():
        return task.method.predict(padded)[0, :, :height, :width]


def measured(task: ChangeTask, out: Path, sure: float) -> dict[str, Any]:
    """Scores on all test pairs, per set, and what pseudo labels would be worth there."""
    pooled = ChangeMetrics()
    pseudo = torch.zeros(2, 3, dtype=torch.int64)
    sets = {}
    for name in SETS:
        metrics = ChangeMetrics()
        for sample in samples_of(PairFolder(out / "pairs" / name, "test", keys={"image", "mask"})):
            prob, mask = probability(task, sample["image"]), sample["mask"]
            metrics.update(prob, mask)
            pooled.update(prob, mask)
            pseudo += confident_and_right(prob, mask, sure)
        sets[name] = round(summarise(metrics.counts(0.5))["f1_change"], 3)
    best = pooled.best_threshold()
    at_half, at_best = (summarise(pooled.counts(edge)) for edge in (0.5, best))
    return {
        **{key: round(at_half[key], 3) for key in SHOWN},
        "best": round(at_best["f1_change"], 3),
        "best_threshold": best,
        "sets": sets,
        "pseudo": shares(pseudo),
    }


def pseudo_labels(masked: Mapping[str, Sequence[Sample]], args: argparse.Namespace) -> str:
    """Table of the pseudo labels that the first network of each seed gives to unlabelled pairs."""
    found = []
    for seed in args.seeds:
        few, many = divided(masked, args.labelled, seed)
        row = settings_of(args, "supervised")
        task = untrained(args, row)
        state = begin(few, seed, args, row)
        if state is not None:
            task.method.network.load_state_dict(state)
        task.method.eval()
        prob = torch.cat([probability(task, sample["image"]).flatten() for sample in many])
        found.append((f"seed {seed}", prob, torch.cat([s["mask"].flatten() for s in many])))
    return by_threshold(found)


def settings_of(args: argparse.Namespace, variant: str) -> dict[str, Any]:
    """What tells one training of a seed from another."""
    names = ["start_steps", "steps", "side", "batch", "lr", "labelled", "changed"]
    names += ["changed_unlabelled", "recipe", "encoder", "weights", "width", "segmenter"]
    return {"variant": variant, **{name: getattr(args, name) for name in names}}


def labels_quality(samples: Sequence[Sample]) -> dict[str, float]:
    """How good guidance is on pairs with masks."""
    label = torch.cat([s["vl_change"].flatten() for s in samples])
    mask = torch.cat([s["mask"].flatten() for s in samples])
    used = label != 255
    scores = summarise(count(label[used].numpy(), mask[used].numpy()))
    return {key: round(scores[key], 3) for key in SHOWN} | {
        "reliable": round(float(used.float().mean()), 3)
    }


def summary(lines: Sequence[Mapping[str, Any]]) -> str:
    """Mean and deviation over the seeds, per row."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        rows.setdefault(json.dumps(line["row"], sort_keys=True), []).append(line["test"])
    names = (*SHOWN, "best")
    if not lines:
        return "nothing measured yet"
    keys = [k for k in lines[0]["row"] if len({str(line["row"].get(k)) for line in lines}) > 1]
    cells = []
    for text, tests in rows.items():
        row = json.loads(text)
        said = [f"{key} {row.get(key)}" for key in keys if key != "variant"]
        values = [spread([100 * test[name] for test in tests]) for name in names]
        values += [
            "{:.0f}, {:.0f}".format(
                *(
                    100 * mean(t["pseudo"][of][what] for t in tests)
                    for what in ("confident", "right")
                )
            )
            for of in ("change", "no change")
        ]
        cells.append([row["variant"], "; ".join(said), len(tests), *values])
    pseudo = [f"of {of}: confident, right of these %" for of in ("change", "no change")]
    return markdown(["variant", "settings", "seeds", *names, *pseudo], cells)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--variants", nargs="+", default=["supervised", "fixmatch", "diffmatch"], choices=VARIANTS
    )
    parser.add_argument("--recipe", type=json.loads, default={}, help='JSON: {"conf_thresh": 0.8}')
    parser.add_argument("--labelled", type=int, default=1, help="of each set; and without change")
    parser.add_argument("--changed", type=float, default=0.0, help="share of windows with change")
    parser.add_argument(
        "--changed-unlabelled", type=float, default=0.0, help="the same, as guidance says"
    )
    parser.add_argument("--segmenter", default="buildings")
    parser.add_argument("--encoder", default=LITE)
    parser.add_argument("--weights", default=IMAGENET, help="of the encoder; '' for random")
    parser.add_argument("--width", type=int, default=64, help="of the head")
    parser.add_argument("--lr", type=float, default=0.02, help="published")
    parser.add_argument("--start-steps", type=int, default=100, help="on labelled pairs, before")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--summary", action="store_true", help="only print what the file says")
    parser.add_argument("--pseudo", action="store_true", help="only look at first pseudo labels")
    return parser.parse_args()


def main() -> None:
    """Prepare, train, measure, print."""
    args = arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results = args.out / "results.jsonl"
    lines = [json.loads(x) for x in results.read_text().splitlines()] if results.exists() else []
    if args.summary:
        print(summary(lines))
        return
    prepare(args.data, args.out)
    if args.pseudo:
        print(pseudo_labels(gathered(args, guidance=False)[0], args))
        return
    guidance = args.changed_unlabelled > 0 or any(VARIANTS[v].layers for v in args.variants)
    masked, bare = gathered(args, guidance=guidance)
    everything = [sample for samples in masked.values() for sample in samples]
    about = {"labelled": len(everything), "unlabelled": len(bare)}
    quality = {"guidance": labels_quality(everything)} if guidance else {}
    print(json.dumps(about | quality | machine("torch")))
    for seed in args.seeds:
        few, many = divided(masked, args.labelled, seed)
        many = [{k: v for k, v in sample.items() if k != "mask"} for sample in many] + bare
        for variant in args.variants:
            row = settings_of(args, variant)
            if any(line["seed"] == seed and line["row"] == row for line in lines):
                continue
            started = time.process_time()
            task = trained(few, many, seed, args, row, begin(few, seed, args, row))
            sure = args.recipe.get("conf_thresh", VARIANTS[variant].conf_thresh)
            line = {
                "seed": seed,
                "row": row,
                "test": measured(task, args.out, sure),
                "pairs": [len(few), len(many)],
                "cpu_s": round(time.process_time() - started),
            }
            lines.append(line)
            with results.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
    print(summary(lines))


if __name__ == "__main__":
    main()
