"""Does a review pay? F1 on other towns of a style, before and after so many decisions are learnt.

The style is one that the network that ships does not know: t2 is taken 30 degrees off nadir, where
roofs lean over the ground beside them, of dry ground that was worked on. Per seed a town is
predicted with every polygon kept; decisions come from the truth (accepted: more than half of the
polygon is change), in the order of `rscd review next` or at random; `configs/from_review.yaml`
trains on them, for fewer steps; F1 is that of the changed pixels of four other towns.

One JSON line per result; the same command goes on where it stopped.
"""

import argparse
import json
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray

from rscd import Options, open_pair, predict
from rscd.export.style import review_qml
from rscd.inference.models import load_model
from rscd.review.choose import By, choose_next
from rscd.review.layer import ChangeLayer, read_change_layer, write_layer
from rscd.synthetic.sample import SAMPLE_CRS, sample_transform
from rscd.synthetic.towns import Nuisance, TownPair, TownStyle, plan_town, render_town
from rscd.training.run import train

CONFIG = Path(__file__).parents[1] / "configs" / "from_review.yaml"
STYLE = TownStyle(
    arid=1.0, roofs="slate", tree_cover=0.1, shrubs=1.0, clutter=1.0, urban=0.6
)  # fmt: skip
OTHER_TOWNS = (9001, 9002, 9003, 9004)
TEST_PX = 384


def conditions() -> Nuisance:
    """What differs between the dates besides buildings."""
    usual = Nuisance.moderate()
    leaning = replace(usual.t2, off_nadir_deg=30.0, view_azimuth_deg=90.0)
    return replace(usual, t1=replace(usual.t1, off_nadir_deg=0.0), t2=leaning, ground_change=0.5)


@cache
def town(seed: int, side: int) -> TownPair:
    """A town of the style at both dates."""
    plan = plan_town(seed, (side, side), 0.5, change_share=0.4, style=STYLE)
    return render_town(plan, conditions())


def f1_of(network: Any) -> dict[str, float]:
    """Quality on the other towns."""
    hit = found = there = 0
    for seed in OTHER_TOWNS:
        pair = town(seed, TEST_PX)
        valid = np.ones((1, TEST_PX, TEST_PX), bool)
        prob = network(pair.image[None].astype(np.float32), valid)[0]
        predicted, true = prob >= network.threshold, pair.mask[0] == 1
        hit += int((predicted & true).sum())
        found, there = found + int(predicted.sum()), there + int(true.sum())
    scores = {"precision": hit / max(found, 1), "recall": hit / max(there, 1)}
    return {"f1": 2 * hit / max(found + there, 1), **scores}


def review_all(folder: Path, seed: int, side: int) -> tuple[ChangeLayer, NDArray[np.bool_]]:
    """A predicted layer of a town, and which of its polygons are right."""
    folder.mkdir(parents=True, exist_ok=True)
    layer = folder / "change.gpkg"
    pair = town(seed, side)
    place = sample_transform()
    for index, name in enumerate(("t1.tif", "t2.tif")):
        if not (folder / name).exists():
            profile = {"driver": "GTiff", "height": side, "width": side, "count": 3}
            profile |= {"dtype": "uint8", "crs": SAMPLE_CRS, "transform": place}
            with rasterio.open(folder / name, "w", photometric="RGB", **profile) as dataset:
                dataset.write(pair.image[index])
    if not layer.exists():
        scenes = open_pair(folder / "t1.tif", folder / "t2.tif")
        predict(scenes, [layer], Options(min_score=0.0, regularize=False, workers=1))
    found = read_change_layer(layer)
    plan = shapely.union_all([change.polygon for change in pair.changes])
    truth = shapely.transform(plan, lambda p: p * [1, -1] + np.array([place.c, place.f]))
    shapes = found.table.geometry.to_numpy()
    right = shapely.area(shapely.intersection(shapes, truth)) > 0.5 * shapely.area(shapes)
    return found, right


def decided(layer: ChangeLayer, right: NDArray[np.bool_], order: list[int]) -> ChangeLayer:
    """The layer in which the first of an order are decided."""
    table = layer.table.copy()
    words = np.where(right[order], "accepted", "rejected")
    table.loc[table.index[order], "status"] = words
    return replace(layer, table=table)


def order_of(
    layer: ChangeLayer, right: NDArray[np.bool_], sizes: list[int], by: By, seed: int
) -> list[int]:
    """Positions of polygons in the order in which they are reviewed, draw by draw."""
    chosen: list[int] = []
    for size in sizes:
        table = decided(layer, right, chosen).table
        chosen += choose_next(table, size - len(chosen), by, seed)
    return chosen


def main() -> None:
    """Print and store the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--decisions", default="20,50,200")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--side", type=int, default=1920)
    parser.add_argument("--folder", type=Path, default=Path("runs/review_curve"))
    args = parser.parse_args()
    sizes = sorted(map(int, args.decisions.split(",")))
    args.folder.mkdir(parents=True, exist_ok=True)
    lines = args.folder / "results.jsonl"
    known = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    done = {(one["seed"], one["by"], one["decisions"]) for one in known}

    def note(**result: Any) -> None:
        with lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(json.dumps(result), flush=True)

    for seed in map(int, args.seeds.split(",")):
        folder = args.folder / f"town{seed}"
        layer, right = review_all(folder, seed, args.side)
        if (seed, "none", 0) not in done:
            about = {"polygons": len(right), "right": int(right.sum())}
            note(
                seed=seed, by="none", decisions=0, **about, **f1_of(load_model("buildings", "cpu"))
            )
        ways: tuple[By, ...] = ("random", "gain")
        for by in ways:
            order = order_of(layer, right, sizes, by, seed)
            for size in sizes:
                if (seed, by, size) in done:
                    continue
                begun, run = time.process_time(), folder / f"{by}{size}"
                reviewed = folder / f"{by}{size}.gpkg"
                mine = decided(layer, right, order[:size])
                write_layer(replace(mine, path=reviewed), reviewed, review_qml())
                words = ["-c", str(CONFIG), "--trainer.accelerator", "cpu", "--overwrite"]
                words += ["--trainer.logger", "false", "--seed_everything", str(seed)]
                words += ["--trainer.max_steps", str(args.steps), "--trainer.default_root_dir"]
                words += [str(run), "--trainer.enable_progress_bar", "false"]
                words += ["--trainer.enable_model_summary", "false"]
                words += ["--data.batch_size", "2", "--data.streams.train.patch_size", "160"]
                words += ["--model.method_args.weak.patch_size", "160"]
                words += ["--data.streams.train.init_args.scenes"]
                words += [json.dumps([{"review": str(reviewed)}])]
                train(words)
                found = f1_of(load_model(str(run / "best.ckpt"), "cpu"))
                cpu = round(time.process_time() - begun, 1)
                accepted = int(right[order[:size]].sum())
                note(seed=seed, by=by, decisions=size, accepted=accepted, cpu_s=cpu, **found)


if __name__ == "__main__":
    main()
