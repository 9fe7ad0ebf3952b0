"""The compact scene network on real street pairs: synthetic training alone, and what target adds.

    python benchmarks/scene_on_street_pairs.py DATA/street OUT [--seeds 0 1 2] [--steps 150]

DATA/street holds folders of ``t0/ t1/ mask/`` whose pairs end in ``_close`` or ``_offset`` (taken
from another viewpoint), and folders without masks. All pictures are resized to 96 x 96, the size of
the synthetic pairs. Measured are the network pretrained as in ``ladder_scene.py`` and, per seed,
after as many steps on synthetic pairs alone, after the second stage on the pairs without masks (the
teacher of ``L_unsup`` alone, and the student), and after that on the labelled pairs themselves,
whose masks it does not see. F1 of change in percent, pooled over close and over offset views;
sheets of the first seed (t1, t1 brought onto t2 by the flow, t2, mask, found) go to OUT.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import ladder_scene
import numpy as np
import torch
from ladder_scene import OFF, SIZE, change_f1, network_of, rows_of, trained
from machine import machine
from tables import markdown, spread
from torch import Tensor

from rscd.base.types import Batch
from rscd.data.street import VLCMUCD
from rscd.methods.scene import Scene
from rscd.models.flow import warp
from rscd.models.lite_encoder import IMAGENET
from rscd.models.smp_encoders import LITE

VIEWS = ("close", "offset")


def pictures(folder: Path, *, masks: bool) -> tuple[list[str], Batch]:
    """Names and pairs of all sets of a folder that have masks, or that have none."""
    names: list[str] = []
    samples = []
    for place in sorted(folder.iterdir()):
        if not (place / "t0").is_dir() or (place / "mask").is_dir() != masks:
            continue
        keys = {"image", "mask"} if masks else {"image"}
        data = VLCMUCD(place, "all", keys=keys, size=(SIZE, SIZE))
        names += [f"{place.name} {name}" for name in data.names]
        samples += [data[index] for index in range(len(data))]
    batch = {key: torch.stack([s[key] for s in samples]) for key in keys}
    return names, batch  # type: ignore[return-value]


def scores(network: torch.nn.Module, names: list[str], batch: Batch) -> dict[str, float]:
    """F1 of change by view."""
    network.eval()
    found = {}
    for view in VIEWS:
        rows = torch.tensor([i for i, name in enumerate(names) if name.endswith(f"_{view}")])
        found[view] = round(change_f1(network, rows_of(batch, rows)), 1)
    return found


def second_stage(
    state: Mapping[str, Tensor], source: Batch, target: Batch, args: argparse.Namespace, seed: int,
    weights: Mapping[str, Any] = {}, *, teacher: bool = False,
) -> torch.nn.Module:  # fmt: skip
    """The student (or the teacher) after semi-supervised training; `weights` of losses or 1."""
    torch.manual_seed(seed)
    method = Scene(**network_of(args), lambda1=args.lambda1, **weights)
    method.network.load_state_dict(state)
    assert method.teacher is not None
    method.teacher.load_state_dict(method.network.decoder.state_dict())
    trained(method, {"train": source, "target": target}, args.steps, args.lr, seed)
    return method.teacher_network() if teacher else method.network


@torch.inference_mode()
def sheet(network: torch.nn.Module, batch: Batch, path: Path) -> None:
    """One row per pair."""
    found = network.eval()(batch["image"])
    t1, t2 = batch["image"].unbind(1)
    aligned = warp(t1, found["flow"])
    true, called = (
        255 * mask.float().expand(-1, 3, -1, -1) for mask in (batch["mask"], found["logits"] >= 0)
    )
    columns = torch.cat([t1, aligned, t2, true, called], -1)
    rows = torch.cat(list(columns), -2).clamp(0, 255).byte().permute(1, 2, 0).numpy()
    cv2.imwrite(str(path), np.ascontiguousarray(rows[..., ::-1]))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--pretrain-steps", type=int, default=2500)
    parser.add_argument("--pretrain-pairs", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=96)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--encoder", default=LITE, help="'compact' for the network's own")
    parser.add_argument("--weights", default=IMAGENET, help="of the encoder; '' for random")
    parser.add_argument("--lambda1", type=float, default=0.01, help="published for streets")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.results = args.out / "street.jsonl"  # beside which pretrained networks are kept
    names, labelled = pictures(args.data, masks=True)
    _, unlabelled = pictures(args.data, masks=False)
    share = round(100 * float((labelled["mask"] == 1).float().mean()), 1)
    print(json.dumps({"pairs": len(names), "changed": share, "machine": machine("torch")}))
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in args.seeds:
        source = ladder_scene.domains(seed, args.pairs)["train"]
        state = ladder_scene.pretrained(args)
        start = Scene(**network_of(args)).network
        start.load_state_dict(state)
        stages = {
            "synthetic alone": start,
            "and more of these": second_stage(state, source, unlabelled, args, seed, OFF),
            "and other pairs, teacher of L_unsup": second_stage(
                state, source, unlabelled, args, seed, {"distill_weight": 0.0}, teacher=True
            ),
            "and other pairs": second_stage(state, source, unlabelled, args, seed),
            "and these pairs, unseen masks": second_stage(
                state, source, {"image": labelled["image"]}, args, seed
            ),
        }
        for stage, network in stages.items():
            line = scores(network, names, labelled)
            found.setdefault(stage, []).append(line)
            print(json.dumps({"seed": seed, "stage": stage, **line}), flush=True)
            if seed == args.seeds[0]:
                sheet(
                    network, labelled, args.out / f"{stage.replace(',', '').replace(' ', '_')}.png"
                )
    rows = [
        [stage, *(spread([line[view] for line in lines]) for view in VIEWS)]
        for stage, lines in found.items()
    ]
    print(markdown(["stage", *VIEWS], rows))


if __name__ == "__main__":
    main()
