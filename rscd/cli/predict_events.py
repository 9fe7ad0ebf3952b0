"""``rscd predict -m ceg:BACKEND``: objects that appeared or vanished, by words."""

import argparse
import logging
from typing import TYPE_CHECKING, Any

from rscd.cli.options import emit, emit_json
from rscd.cli.segmenting import label_options, prompts_of, segmenter_of
from rscd.errors import UsageError

if TYPE_CHECKING:
    from rscd.export.targets import Targets
    from rscd.geo.scene import ScenePair
    from rscd.pipeline import Options
    from rscd.pseudo.generate import LabelOptions
    from rscd.pseudo.prompts import PromptSet
    from rscd.pseudo.segmenter import Segmenter

log = logging.getLogger(__name__)

PREFIX = "ceg"
"""Change event generation, of DiffMatch (arXiv 2405.04788)."""

EPILOG = """\
-m ceg:BACKEND looks for words in each date and reports whole objects that are there at one date
only: kind (appeared, vanished), class, score, iou_sum and flags. Backends and their options are
those of rscd pseudolabel.

  rscd predict t1.tif t2.tif -m ceg:sam3 --foreground building -o events.gpkg
"""


def backend_of(model: str | None) -> str | None:
    """The backend that ``-m`` names, None where it names another model.

    Raises:
        UsageError: ``ceg`` without a backend.
    """
    if model is None or model.partition(":")[0] != PREFIX:
        return None
    backend = model.partition(":")[2]
    if not backend:
        from rscd.pseudo.segmenter import SEGMENTERS

        raise UsageError(
            f"expected -m {PREFIX}:BACKEND with one of {', '.join(SEGMENTERS)}, found {model!r}"
        )
    return backend


def run_events(
    args: argparse.Namespace, backend: str, pair: "ScenePair", options: "Options"
) -> None:
    """Segment both dates, compare their objects, write the polygons."""
    from dataclasses import replace

    from rscd.cli.progress import progress_bar

    _check_options(args)
    targets = _targets(args, pair)
    prompts = prompts_of(args)
    segmenter = segmenter_of(args, backend)
    # small objects take part; only the result leaves them out
    rules = replace(label_options(args), min_area_m2=0.0).filled(segmenter)
    _check_memory(pair, prompts)
    if args.dry_run:
        _say_plan(args, pair, segmenter, rules)
        return
    with progress_bar(quiet=args.verbosity < 0) as progress:
        result = _events(args, pair, segmenter, prompts, rules, options, targets, progress)
    if args.json:
        emit_json(result)
        return
    log.info(
        "%(appeared)d objects appeared, %(vanished)d vanished, of %(objects_t1)d at t1 and "
        "%(objects_t2)d at t2; %(reliable).1f %% of the pixels are reliable at gamma %(gamma)g; "
        "%(seconds).1f s",
        result,
    )
    for path in targets.outputs:
        emit(str(path))


def _events(
    args: argparse.Namespace,
    pair: "ScenePair",
    segmenter: "Segmenter",
    prompts: "PromptSet",
    rules: "LabelOptions",
    options: "Options",
    targets: "Targets",
    progress: Any,
) -> dict[str, Any]:
    import time
    from dataclasses import replace

    from rscd.export.style import event_qml
    from rscd.export.vector import write_vector
    from rscd.geo.grid import pixel_size_m
    from rscd.pseudo.generate import (
        DATES,
        check_patience,
        fingerprint,
        labels_of,
        scene_pair,
        view_of,
    )
    from rscd.pseudo.scene_events import event_polygons
    from rscd.pseudo.stitch import segment

    started = time.monotonic()
    source = scene_pair(pair, targets.outputs[0].parent)
    check_patience(segmenter, [source], prompts, rules, allow_slow=args.allow_slow_cpu)
    found = []
    for date in DATES:
        image = source.read(date)
        view = view_of(image, source.name, date, options.gsd_m)
        seen = segment(
            segmenter,
            view,
            prompts,
            tile=rules.tile,
            overlap=rules.overlap,
            told=lambda done, total, date=date: progress(date, done, total),  # type: ignore[misc]
        )
        found.append(replace(seen, valid=image.valid))
    labels = labels_of(found, rules, pixel_size_m(pair.grid) or options.gsd_m)
    table = event_polygons(
        labels,
        pair.grid,
        classes=prompts.classes,
        min_area_m2=options.min_area_m2 or 0.0,
        gsd_m=options.gsd_m,
        t1=options.t1_date,
        t2=options.t2_date,
        model=args.model,
    )
    provenance = _provenance(pair, fingerprint(segmenter, prompts, rules), rules)
    for path in targets.outputs:
        write_vector(
            table,
            path,
            provenance=provenance,
            layer_options=options.layer_options,
            pixel_coordinates=options.pixel_coordinates,
            style=event_qml(),
        )
    valid = max(int(labels.valid.sum()), 1)
    return {
        "outputs": [str(path) for path in targets.outputs],
        "model": args.model,
        "appeared": int((table["kind"] == "appeared").sum()),
        "vanished": int((table["kind"] == "vanished").sum()),
        "objects_t1": len(labels.events.t1.instances),
        "objects_t2": len(labels.events.t2.instances),
        "reliable": round(100 * int(labels.reliable.sum()) / valid, 2),
        "gamma": rules.gamma,
        "seconds": round(time.monotonic() - started, 3),
    }


def _provenance(pair: "ScenePair", how: dict[str, Any], rules: "LabelOptions") -> dict[str, Any]:
    import json
    from dataclasses import asdict

    import rscd
    from rscd.provenance import describe_raster

    plain = {
        "software": f"rscd {rscd.__version__}",
        "t1": describe_raster(pair.t1.path) | {"bands": list(pair.t1.bands)},
        "t2": describe_raster(pair.t2.path) | {"bands": list(pair.t2.bands)},
        "alignment": pair.alignment,
        "segmentation": how,
        "rules": asdict(rules),
    }
    found: dict[str, Any] = json.loads(json.dumps(plain))
    return found


def _check_options(args: argparse.Namespace) -> None:
    given = {
        "--prob": args.prob is not None,
        "--preview": args.preview is not None,
        "--threshold": args.threshold != "auto",
        "--simplify": args.simplify > 0,
        "--flow": args.flow is not None,
        "--msi": args.msi is not None,
        "--tta": args.tta is not None,
    }
    wrong = [name for name, there in given.items() if there]
    if wrong:
        raise UsageError(
            f"expected no {wrong[0]} with -m {PREFIX}:..., which reports whole objects; drop it, "
            "or use rscd pseudolabel T1 T2 -o STORE for rasters"
        )


def _targets(args: argparse.Namespace, pair: "ScenePair") -> "Targets":
    from rscd.export.outputs import is_vector
    from rscd.export.targets import Targets

    targets = Targets.of(args.output, None, None)
    rasters = [path for path in targets.outputs if not is_vector(path)]
    if rasters:
        raise UsageError(
            f"expected vector files (.gpkg .geojson .fgb .parquet) with -m {PREFIX}:..., found "
            f"{rasters[0]}; rscd pseudolabel T1 T2 -o STORE writes rasters"
        )
    has_crs = pair.grid.crs is not None
    targets.check_formats(has_crs=has_crs, pixel_coordinates=args.pixel_coordinates)
    targets.check_places((pair.t1.path, pair.t2.path), 0)
    if not args.overwrite:
        targets.check_new(())
    return targets


def _check_memory(pair: "ScenePair", prompts: "PromptSet") -> None:
    """Refuse a scene whose scores of both dates do not fit: objects are compared as wholes."""
    import psutil

    height, width = pair.shape_hw
    # scores of both dates and one copy, and the pixels of both dates with their masks
    need = height * width * (12 * len(prompts.classes) + 16 * pair.n_bands + 32)
    free = psutil.virtual_memory().available
    if need > free:
        raise UsageError(
            f"expected a scene whose scores fit into memory ({free / 1e9:.1f} GB free), found one "
            f"that needs {need / 1e9:.1f} GB; take a part with --bbox or --aoi, or fewer prompts"
        )


def _say_plan(
    args: argparse.Namespace, pair: "ScenePair", segmenter: "Segmenter", rules: "LabelOptions"
) -> None:
    from rscd.pseudo.stitch import windows

    height, width = pair.shape_hw
    plan = {
        "model": args.model,
        "alignment": pair.alignment,
        "size": [width, height],
        "windows_per_date": len(windows((height, width), rules.tile, rules.overlap or 0)),
        "tile_size": rules.tile,
        "gamma": rules.gamma,
    }
    if args.json:
        emit_json(plan)
        return
    for name, value in plan.items():
        emit(f"{name}: {value}")
