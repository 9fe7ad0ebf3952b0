"""Which fault `rscd doctor` names when one is put into a good pair: a confusion table.

    python benchmarks/doctor.py [--towns 5] [--side 448]
    python benchmarks/doctor.py --pairs DATA [--only levir-cd fotbcd-binary]
    python benchmarks/doctor.py --odd DATA/geotiff/odd

Town pairs with other light, season and sensor at the dates; into each, every fault alone. Prints a
Markdown table: how often the doctor named that fault, the exit codes, and what else it named. The
second command looks at real pairs (DATA/index.csv), the third at rasters that are odd in one way or
another, each beside a copy of itself that is darker by an eighth.
"""

import argparse
import csv
import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from scipy import ndimage

from rscd import Options
from rscd.geo.source import close_handles
from rscd.pipeline.doctor import Report, diagnose
from rscd.synthetic.towns import Nuisance, plan_town, render_town

Image = NDArray[Any]
HALF_METRE = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
UTM = "EPSG:32633"
MINE = 'LOCAL_CS["Mine grid",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'


@dataclass(frozen=True)
class Scene:
    """One date as it is written."""

    image: Image
    """(C,H,W)."""
    profile: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the usual GeoTIFF."""
    colours: tuple[str, ...] = ("red", "green", "blue")
    palette: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    units: tuple[float, float] | None = None
    gcps: bool = False
    keep_bytes: float = 1.0
    """Fraction of the file that is left."""

    def write(self, path: Path) -> Path:
        """As a GeoTIFF."""
        count, height, width = self.image.shape
        usual = {"driver": "GTiff", "crs": UTM, "transform": HALF_METRE, "dtype": self.image.dtype}
        profile = {k: v for k, v in (usual | dict(self.profile)).items() if v is not None}
        size = {"count": count, "height": height, "width": width}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(path, "w", **profile, **size) as dataset:
                dataset.write(self.image)
                if self.palette:
                    dataset.write_colormap(1, {i: (i, 255 - i, 0, 255) for i in range(256)})
                elif len(self.colours) == count:
                    dataset.colorinterp = [ColorInterp[name] for name in self.colours]
                dataset.update_tags(**self.tags)
                if self.units is not None:
                    dataset.scales, dataset.offsets = ([one] * count for one in self.units)
                if self.gcps:
                    corners = ((0, 0), (0, width), (height, 0), (height, width))
                    points = [
                        GroundControlPoint(row, col, 500_000 + col / 2, 5_000_000 - row / 2)
                        for row, col in corners
                    ]
                    dataset.gcps = points, rasterio.CRS.from_string(UTM)
        if self.keep_bytes < 1:
            whole = path.read_bytes()
            path.write_bytes(whole[: int(len(whole) * self.keep_bytes)])
        return path


Pair = tuple[Scene, Scene]
Fault = Callable[[Scene, Scene], Pair]


def good_pair(seed: int, side: int) -> Pair:
    """A town at two dates between which nothing is wrong but a few changes."""
    usual = Nuisance.moderate()
    drawn = replace(usual, shift_px=(0.0, 0.0))
    image = render_town(plan_town(seed, (side, side), 0.5, change_share=0.1), drawn).image
    return Scene(image[0]), Scene(image[1])


def _second(change: Callable[[Image], Image], **more: Any) -> Fault:
    return lambda t1, t2: (t1, replace(t2, image=change(t2.image), **more))


def _written(**more: Any) -> Fault:
    return lambda t1, t2: (t1, replace(t2, **more))


def _as(image: NDArray[np.floating[Any]], kind: Any = np.uint8) -> Image:
    ends = np.iinfo(kind)
    shown: Image = np.clip(np.rint(image), ends.min, ends.max).astype(kind)
    return shown


def _cloud(image: Image) -> Image:
    height, width = image.shape[1:]
    rows, cols = np.mgrid[:height, :width]
    at = ((rows - 0.55 * height) / (0.4 * height)) ** 2 + ((cols - 0.5 * width) / width * 2.2) ** 2
    cover = np.clip(4 * (1 - at), 0, 1)
    smooth = 232 + 4 * np.sin(rows / 40) * np.cos(cols / 55)
    return _as(image * (1 - cover) + smooth * cover)


def _collar(image: Image) -> Image:
    found = image.copy()
    found[:, :, : image.shape[2] // 4] = 0
    return found


def _summer(image: Image) -> Image:
    gray = image.mean(axis=0)
    return _as(np.stack([0.8 * gray, 1.15 * gray, 0.7 * gray]))


def _bent(image: Image) -> Image:
    height, width = image.shape[1:]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    maps = x - 3 * np.sin(x / width * 5).astype(np.float32), y - 4 * (y / height) ** 2
    return np.stack([cv2.remap(band, *maps, cv2.INTER_CUBIC) for band in image])


def _moved(cols: float, rows: float) -> Callable[[Image], Image]:
    return lambda image: np.stack(
        [
            cv2.warpAffine(
                band, np.array([[1, 0, cols], [0, 1, rows]], np.float32), band.shape[::-1],
                flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT,
            )
            for band in image
        ]
    )  # fmt: skip


def _turned(image: Image) -> Image:
    return np.ascontiguousarray(np.rot90(image, 2, (1, 2))[:, :, ::-1])


def _coarse(factor: int) -> Fault:
    def change(t1: Scene, t2: Scene) -> Pair:
        height, width = (size // factor for size in t2.image.shape[1:])
        small = [
            cv2.resize(band, (width, height), interpolation=cv2.INTER_AREA) for band in t2.image
        ]
        transform = HALF_METRE @ Affine.scale(factor)
        return t1, replace(t2, image=np.stack(small), profile={"transform": transform})

    return change


def _both(more: Mapping[str, Any], other: Mapping[str, Any]) -> Fault:
    return lambda t1, t2: (replace(t1, **more), replace(t2, **other))


def _apart(t1: Scene, t2: Scene) -> Pair:
    return t1, replace(t2, profile={"transform": Affine.translation(90_000, 0) @ HALF_METRE})


def _blurred(image: Image) -> Image:
    return np.stack([ndimage.gaussian_filter(band, 1.8) for band in image])


def _holed(t1: Scene, t2: Scene) -> Pair:
    image = t2.image.copy()
    image[:, :, image.shape[2] // 16 :] = 0
    return t1, replace(t2, image=image, profile={"nodata": 0})


FAULTS: dict[str, Fault] = {
    "unreadable": _written(keep_bytes=0.4),
    "not-rectified": _written(gcps=True, profile={"crs": None, "transform": None}),
    "complex-values": _second(lambda i: i.astype(np.complex64), colours=()),
    "palette": lambda t1, t2: (
        replace(t1, image=t1.image[:1]),
        replace(t2, image=t2.image[:1], palette=True),
    ),
    "band-count": _second(lambda i: i[:2], colours=()),
    "missing-crs": _written(profile={"crs": None}),
    "foreign-crs": _written(profile={"crs": MINE}),
    "picture-sizes": lambda t1, t2: (
        replace(t1, profile={"crs": None, "transform": None}),
        replace(t2, image=t2.image[:, 8:], profile={"crs": None, "transform": None}),
    ),
    "no-overlap": _apart,
    "dates-reversed": _both(
        {"tags": {"TIFFTAG_DATETIME": "2021:06:01 10:00:00"}},
        {"tags": {"TIFFTAG_DATETIME": "2018:06:01 10:00:00"}},
    ),
    "date-tag": _written(tags={"TIFFTAG_DATETIME": "2018:13:41 10:00:00"}),
    "mostly-nodata": _holed,
    "identical": lambda t1, t2: (t1, t1),
    "blank": _second(lambda i: np.full_like(i, 37)),
    "undeclared-nodata": _second(_collar),
    "band-order": _second(lambda i: i[::-1], colours=()),
    "value-range": _second(lambda i: _as(i * 40.0 + 200, np.uint16)),
    "pixel-size": _coarse(4),
    "coarser": _coarse(2),
    "cloud": _second(_cloud),
    "haze": _second(lambda i: _as(0.42 * i + 130)),
    "shift": _second(_moved(1.1, -0.6)),
    "large-shift": _second(_moved(-5.5, 3.5)),
    "distortion": _second(_bent),
    "unrelated": _second(_turned),
    "units": _written(units=(1.1, -5.0)),
    "brightness": _second(lambda i: _as(0.25 * i)),
    "contrast": _second(lambda i: _as(100 + 0.3 * (i - 100.0))),
    "clipped": _second(lambda i: _as(i * 3.0)),
    "blur": _second(_blurred),
    "season": lambda t1, t2: (
        replace(t1, image=_as(t1.image.mean(axis=0) * np.array([1.1, 1, 0.9])[:, None, None])),
        replace(t2, image=_summer(t2.image)),
    ),
}
"""By kind; near-infrared, one-band, two-grids, small-overlap and degenerate-transform depend on
model, options or size, and are tested elsewhere."""


def examine(pair: Pair, folder: Path) -> Report:
    """What the doctor says of a pair."""
    t1, t2 = (scene.write(folder / f"t{n}.tif") for n, scene in enumerate(pair, 1))
    try:
        return diagnose(t1, t2, Options(model="cva"))
    finally:
        close_handles()


def real_pairs(data: Path, only: list[str]) -> None:
    """What is said of real pairs: one row per set, and a line for each that is doubted."""
    sets: dict[str, list[dict[str, str]]] = {}
    with (data / "index.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            sets.setdefault(row["dataset"], []).append(row)
    print("| set | pairs | without finding | notes | doubted |")
    print("|---|---|---|---|---|")
    for name, rows in sets.items():
        if name.startswith("street") or (only and name not in only):
            continue  # street scenes have a flow of their own
        reports = {row["name"]: _of_pair(data / name / row["split"], row["name"]) for row in rows}
        notes = Counter(
            one.kind for r in reports.values() for one in r.findings if one.level == "note"
        )
        doubted = [
            f"{pair}: {', '.join(one.kind for one in r.findings if one.level != 'note')}"
            for pair, r in reports.items()
            if r.exit_code
        ]
        said = ", ".join(f"{kind} {count}" for kind, count in notes.most_common()) or "-"
        silent = sum(not r.findings for r in reports.values())
        doubts = "; ".join(doubted) or "-"
        print(f"| {name} | {len(reports)} | {silent} | {said} | {doubts} |", flush=True)


def _of_pair(folder: Path, name: str) -> Report:
    t1, t2 = (next((folder / date).glob(f"{name}.*")) for date in "AB")
    try:
        return diagnose(t1, t2, Options(model="cva"))
    finally:
        close_handles()


def darker(path: Path, copy: Path) -> Path:
    """A copy of a raster whose data are darker by an eighth, with all it says of itself."""
    rasterio.shutil.copy(path, copy, driver="GTiff")
    with rasterio.open(copy, "r+") as dataset:
        numbers = [
            number
            for number, colour in enumerate(dataset.colorinterp, 1)
            if colour != ColorInterp.alpha
        ]
        values, seen = dataset.read(numbers), dataset.read_masks(numbers) != 0
        dark = 0.875 * values.astype(np.float64)
        dark = np.rint(dark) if np.issubdtype(values.dtype, np.integer) else dark
        dataset.write(np.where(seen, dark, values).astype(values.dtype), numbers)
    return copy


def odd_rasters(folder: Path) -> None:
    """What is said of odd rasters."""
    print("| raster | exit code | found |")
    print("|---|---|---|")
    for path in sorted(folder.glob("*.tif")):
        with tempfile.TemporaryDirectory() as copies, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = diagnose(path, darker(path, Path(copies) / "t2.tif"), Options(model="cva"))
            close_handles()
        json.dumps(report.data, allow_nan=False)
        kinds = dict.fromkeys(one.kind for one in report.findings)
        print(f"| `{path.name}` | {report.exit_code} | {', '.join(kinds) or '-'} |", flush=True)


def confusion(pairs: list[Pair]) -> None:
    """Which faults are named when they are put into pairs."""
    print("| fault put in | named | exit code | also named |")
    print("|---|---|---|---|")
    none: dict[str, Fault] = {"(none)": lambda t1, t2: (t1, t2)}
    for kind, fault in (none | FAULTS).items():
        named, codes, others = 0, Counter[int](), Counter[str]()
        for pair in pairs:
            with tempfile.TemporaryDirectory() as folder:
                report = examine(fault(*pair), Path(folder))
            kinds = {one.kind for one in report.findings}
            named += kind in kinds or not (kinds or kind in FAULTS)
            codes[report.exit_code] += 1
            others.update(kinds - {kind})
        said = ", ".join(f"{other} {count}" for other, count in others.most_common()) or "-"
        shown = ", ".join(map(str, sorted(codes)))
        print(f"| {kind} | {named} of {len(pairs)} | {shown} | {said} |", flush=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--towns", type=int, default=5)
    parser.add_argument("--side", type=int, default=448)
    parser.add_argument("--pairs", type=Path, metavar="DATA", help="real pairs instead of towns")
    parser.add_argument("--only", nargs="+", default=[], help="of these sets")
    parser.add_argument("--odd", type=Path, metavar="FOLDER", help="odd rasters instead of towns")
    options = parser.parse_args()
    if options.pairs is not None:
        real_pairs(options.pairs, options.only)
    elif options.odd is not None:
        odd_rasters(options.odd)
    else:
        confusion([good_pair(seed, options.side) for seed in range(options.towns)])


if __name__ == "__main__":
    main()
