"""Every command line that the pages show is run, page by page, in a folder of its own.

The files that a line names are made when it first names them (`SUPPLIES`): small ones, by the
product where it can. What this machine lacks is replaced (`INSTEAD`), trainings are prepared up to
their first step, and what cannot be run at all is listed with the reason (`NOT_RUN`); a line that
is none of this fails.
"""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import onnx
import pytest
import torch
import yaml
from lightning.pytorch import Trainer

import rscd.inference.shipped
import rscd.training.run
from rscd.base.files import sha256_of
from rscd.base.types import CARD_KEY
from rscd.cli import build_parser, main
from rscd.data.images import write_picture
from rscd.export.vector import write_vector
from rscd.geo.origin import read_provenance
from rscd.geo.vectors import read_layer
from rscd.inference.shipped import CHECKSUMS
from rscd.training.chain import arguments, is_chain, read_chain
from rscd.training.configurations import find
from rscd.training.task import ChangeTask

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ALL = os.environ.get("RSCD_EXAMPLES") == "all"
"""Whether those that take long are run as well, as in the nightly workflow."""

NOT_RUN = {
    "pip": "installs; CI builds the wheel and predicts with it",
    "make": "CI runs them (.ci/run); that each exists is checked in test_docs.py",
    "docker": "no Docker engine",
    "hadolint": "not installed; the page has its result",
    "check-jsonschema": "not installed; the page has its result",
    "dask": "cluster of several machines; tests/inference/test_dask.py starts one here",
    "export": "settings of an object store",
    "qgis_process": "QGIS; tests/export/test_qgis_provider.py runs it where there is one",
    "python -m pytest": "tests",
    "python recipe/render.py": "rattler-build's own code, which the project does not install",
    "python benchmarks/": "minutes to hours; that scripts know the options is in test_docs.py",
    "rscd * --dask *": "clusters; tests/inference/test_dask.py and tests/pipeline/test_batch.py",
    "rscd * s3://*": "object storage; tests/geo/test_remote.py, tests/export/test_upload.py",
    "rscd train -c configs/early_town.yaml": "made in the recipe",
    "rscd train -c configs/both_orders_town.yaml": "made in the recipe",
    "rscd predict * -m runs/early_town/*": "made in the recipe",
    "rscd events * --segmenter brightness *": "made in the recipe",
    "rscd model show ceg:brightness": "made in the recipe",
}
"""Beginnings or patterns of lines, with the reason."""

SLOW = {
    "rscd model export * *.onnx": "torch.onnx; tests/inference/test_graphs.py exports each network",
    "rscd model export * *.pt2": "torch.export; likewise",
    "rscd predict * -m buildings.onnx *": "needs the file of the line before",
    "rscd evaluate PCD *": "ten seconds for 120 crops; like ChangeSim, which is run",
}
"""Patterns of lines that are run with ``RSCD_EXAMPLES=all`` only, with the reason."""

INSTEAD = {
    "--segmenter sam3": "--segmenter spectral",  # gated weights, and a GPU
    "--size 520,520": "--size 64,64",
    "--size 512,512": "--size 128,128",
    "prepare whu": "prepare whu --size 64",
    "$SLURM_ARRAY_TASK_ID/20": "1/1",
    "--shard 3/20": "--shard 1/1",
}
"""Words of lines, and what is run in their place."""

WRITTEN = ("-o", "--output", "--prob", "--preview", "--report", "--flow", "--dissimilarity")
"""Options whose files are replaced: pages show several ways to make one file."""

CODES = {"doctor": (0, 3)}
"""Exit codes other than 0 that a command may have where nothing went wrong."""

FIELDS = ("areas", "scale")
"""Pages on which scenes are fields of 10 m in four bands, of which 49 changed."""

LONG = (
    *("README", "areas", "data", "default_model", "kdmsi", "learning_from_review", "quick_start"),
    *("registration", "review", "scale", "scene", "scenes_to_train_on", "segmenters", "train"),
)
"""Pages that take more than three seconds."""

LARGE = ("learning_from_review", "registration")
"""Pages on which scenes are large enough for a field of shifts, or for buildings that are found."""


@dataclass(frozen=True)
class Line:
    """A command line of a page."""

    text: str
    words: list[str] = field(compare=False)

    def like(self, patterns: Iterable[str]) -> str | None:
        """The first pattern that the line fits."""
        plain = " ".join(self.words)
        for pattern in patterns:
            if plain == pattern or plain.startswith(f"{pattern} ") or fnmatch(plain, pattern):
                return pattern
            if pattern.endswith("/") and plain.startswith(pattern):
                return pattern
        return None


def lines_of(page: Path) -> Iterator[Line]:
    """Command lines of fenced blocks without a language, and of indented ones."""
    joined = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    fence, found = None, []
    for line in joined.splitlines():
        if line.startswith("```"):
            fence = None if fence is not None else line.removeprefix("```")
        elif fence == "" or (fence is None and re.match(" {4}(rscd|python|mkdir) ", line)):
            found.append(line)
    for part in (part for line in found for part in line.split("&&")):
        if words := shlex.split(part, comments=True):
            yield Line(part.strip(), words)


def town(path: Path, stock: "Stock") -> None:
    """A date of a synthetic town, 96 x 96 pixels of half a metre."""
    date = "t1" if re.search("t1|2019|first", path.name) else "t2"
    shutil.copy2((stock.large if stock.is_large else stock.town) / f"scene_{date}.tif", path)


def moved(path: Path, stock: "Stock") -> None:
    """The date that the page's layer was made from, in another place."""
    shutil.copy2("scene_t1.tif" if "2019" in path.name else "scene_t2.tif", path)


def street(path: Path, stock: "Stock") -> None:
    """A picture without georeferencing."""
    write_picture(path, noise(int("2" in path.name), 48, 64))


def noise(seed: int, height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (3, height // 8, width // 8))
    return coarse.astype(np.uint8).repeat(8, 1).repeat(8, 2)


def day(path: Path, stock: "Stock") -> None:
    """A folder of two pictures, or scenes."""
    path.mkdir()
    for name in ("a", "b"):
        if stock.fields:
            shutil.copy2(stock.folder / f"field{path.name[-1]}.tif", path / f"{name}.tif")
        else:
            write_picture(path / f"{name}.png", noise(int("2" in path.name), 48, 64))


def pairs(path: Path, stock: "Stock") -> None:
    """A folder of pairs with masks and lists, of three splits."""
    seed = 0
    for split, count in (("train", 20), ("val", 2), ("test", 2)):
        names = [f"{split}_{index:02}.png" for index in range(count)]
        for name in names:
            for kind in ("A", "B", "label"):
                seed += 1
                pixels = noise(seed, 64, 64)
                pixels = pixels if kind != "label" else (pixels[:1] > 200).astype(np.uint8) * 255
                (path / kind).mkdir(parents=True, exist_ok=True)
                write_picture(path / kind / name, pixels)
        (path / "list").mkdir(exist_ok=True)
        text = "".join(f"{name}\n" for name in names)
        (path / "list" / f"{split}.txt").write_text(text, encoding="utf-8")


def lists(path: Path, stock: "Stock") -> None:
    """Lists of labelled pairs as the authors of DiffMatch publish them."""
    names = [f"train_{index:02}.png" for index in range(20)]
    for percent, count in ((5, 1), (10, 2), (20, 4), (40, 8)):
        folder = path / f"{percent}%"
        folder.mkdir(parents=True)
        for part, chosen in (("labeled", names[:count]), ("unlabeled", names[count:])):
            text = "".join(f"{name}\n" for name in chosen)
            (folder / f"{part}.txt").write_text(text, encoding="utf-8")


def whu(path: Path, stock: "Stock") -> None:
    """WHU-CD as distributed, forty tiles of it."""
    for name in ("before/before", "after/after"):
        (path / name).parent.mkdir(parents=True)
        write_picture(path / f"{name}.tif", noise(len(name), 256, 640))
    (path / "change label").mkdir()
    mask = (noise(1, 256, 640)[:1] > 200).astype(np.uint8) * 255
    write_picture(path / "change label" / "change_label.tif", mask)


def changesim(path: Path, stock: "Stock") -> None:
    for warehouse in ("Query_Seq_Train/Warehouse_0", "Query_Seq_Test/Warehouse_6"):
        for sequence in ("Seq_0", "Seq_0_dust", "Seq_0_dark"):
            base = path / warehouse / sequence
            for frame in range(10 if "Train" in warehouse and sequence == "Seq_0" else 1):
                for place, pixels in (
                    ("rgb", noise(frame, 48, 64)),
                    ("t0/rgb", noise(frame + 1, 48, 64)),
                    ("change_segmentation", np.zeros((3, 48, 64), np.uint8)),
                ):
                    (base / place).mkdir(parents=True, exist_ok=True)
                    write_picture(base / place / f"{frame}.png", pixels)


def pcd(path: Path, stock: "Stock") -> None:
    for subset in ("TSUNAMI", "GSV"):
        for index in range(5):
            _street_pair(path / subset, f"{index:08d}", "mask", (224, 1024))


def cmu(path: Path, stock: "Stock") -> None:
    _street_pair(path / "test", "000_00", "gt", (48, 64))


def places(path: Path, stock: "Stock") -> None:
    for condition in ("near", "far"):
        _street_pair(path / condition, "0", "mask", (48, 64))


def _street_pair(base: Path, name: str, mask: str, shape: tuple[int, int]) -> None:
    for seed, place in enumerate(("t0", "t1", mask)):
        (base / place).mkdir(parents=True, exist_ok=True)
        pixels = noise(seed, *shape)
        values = (pixels[:1] > 128).astype(np.uint8) * 255 if place == mask else pixels
        write_picture(base / place / f"{name}.png", values)


def footprints(path: Path, stock: "Stock") -> None:
    """Buildings of a date of the town."""
    date = "t1" if "2018" in path.name else "t2"
    table = geopandas.read_file(stock.town / f"buildings_{date}.geojson")
    table.to_file(path, engine="pyogrio")


def answers(path: Path, stock: "Stock") -> None:
    geopandas.read_file(stock.town / "answers.geojson").to_file(path, engine="pyogrio")


def table(path: Path, stock: "Stock") -> None:
    """A table of one pair."""
    path.write_text("id,t1,t2\nplace,2019.tif,2023.tif\n", encoding="utf-8")
    for name in ("2019.tif", "2023.tif"):
        stock.supply(path.with_name(name))


def reference(path: Path, stock: "Stock") -> None:
    """A reference mask of the town in values of a drawing program."""
    import rasterio

    with rasterio.open(stock.town / "scene_t1.tif") as scene:
        profile = {"driver": "GTiff", "crs": scene.crs, "transform": scene.transform}
        size = {"width": scene.width, "height": scene.height, "count": 1, "dtype": "uint8"}
    values = np.zeros((size["height"], size["width"]), np.uint8)
    values[20:40, 20:40], values[:5] = 255, 127
    with rasterio.open(path, "w", **profile, **size) as dataset:
        dataset.write(values, 1)


def mask_of_change(path: Path, stock: "Stock") -> None:
    command("predict", *stock.dates(path.parent), "-o", path.name, "-m", "cva")


def layer(path: Path, stock: "Stock") -> None:
    command("predict", *stock.dates(path.parent), "-o", path.name, "--min-score", "0")


def reviewed(path: Path, stock: "Stock") -> None:
    """A layer of a prediction, reviewed as a whole."""
    layer(path, stock)
    decide(path)


def decide(path: Path, where: str = "id") -> None:
    """A reviewer accepts the polygons of a layer that have a value in a column."""
    command("review", "apply", path.name)
    table, provenance = read_layer(path, "polygons"), read_provenance(path)
    table.loc[table[where].notna(), "status"] = "accepted"
    path.unlink()
    write_vector(table, path, provenance=provenance)


def review(path: Path, stock: "Stock") -> None:
    """What the review page saves of the layer ``change.gpkg``."""
    shutil.copy2("change.gpkg", "decided.gpkg")
    decide(Path("decided.gpkg"))
    command("review", "export", "decided.gpkg", "-o", path.name)


def streams(path: Path, stock: "Stock") -> None:
    """The streams of a training on scenes with answers."""
    scene = {name: f"town/scene_{name}.tif" for name in ("t1", "t2")}
    shutil.copytree(stock.town, "town")
    stream = {"class_path": "rscd.data.scenes.ScenePairs"}
    content = {
        split: stream | {"init_args": {"scenes": [scene | labels]}, "patch_size": 64}
        for split, labels in (
            ("train", {"answers": "town/answers.geojson"}),
            ("val", {"labels": "town/truth.geojson"}),
        )
    }
    text = yaml.safe_dump({"data": {"batch_size": 2, "streams": content}})
    path.write_text(text, encoding="utf-8")


def item(path: Path, stock: "Stock") -> None:
    """A STAC item of a date, in the words of STAC 1.1."""
    number = 1 + ("second" in path.name)
    scene = path.with_name(f"{path.stem}.tif")
    stock.supply(scene.with_name(f"t{number}.tif"))
    scene.with_name(f"t{number}.tif").rename(scene)
    path.write_text(json.dumps(_item(path.stem, scene.name, number)), encoding="utf-8")


def search(path: Path, stock: "Stock") -> None:
    """An ItemCollection of two dates of one place."""
    for number in (1, 2):
        stock.supply(path.with_name(f"t{number}.tif"))
    found = [_item(f"day{number}", f"t{number}.tif", number) for number in (1, 2)]
    content = {"type": "FeatureCollection", "features": found}
    path.write_text(json.dumps(content), encoding="utf-8")


def _item(name: str, file: str, number: int) -> dict[str, Any]:
    names = ("red", "green", "blue", "nir")
    asset = {
        "href": f"./{file}",
        "type": "image/tiff; application=geotiff",
        "bands": [{"name": name, "eo:common_name": name} for name in names],
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": name,
        "geometry": None,
        "properties": {"datetime": f"202{number}-05-01T10:00:00Z", "grid:code": "MGRS-33TUL"},
        "links": [],
        "assets": {"image": asset},
    }


TINY = {"network": "tiny"}
CAM = {"encoder": "tu-test_resnet", "output_stride": 16, "combination": "cat"}
FLOW = {"network": "scene-compact", "network_args": {"low_size": 64}}
CHECKPOINTS: dict[str, tuple[str, dict[str, Any], int]] = {
    "supervised": ("supervised", TINY, 16),
    "kd": ("kdmsi", {"network": "cam", "network_args": CAM, "teacher": "abs"}, 16),
    "scene": ("scene", FLOW, 0),
}


def weights(kind: str) -> Callable[[Path, "Stock"], None]:
    """A checkpoint of a small network that training wrote before its first step."""

    def make(path: Path, stock: "Stock") -> None:
        shutil.copy2(stock.checkpoint(kind), path)

    return make


def exported(path: Path, stock: "Stock") -> None:
    command("model", "export", str(stock.checkpoint("supervised")), "-o", path.name)


SUPPLIES: dict[str, Callable[[Path, "Stock"], None]] = {
    **dict.fromkeys(("t1.tif", "t2.tif", "2019.tif", "2023.tif"), town),
    **dict.fromkeys(("scene_t1.tif", "scene_t2.tif"), town),
    **dict.fromkeys(("moved/2019.tif", "moved/2023.tif"), moved),
    **dict.fromkeys(("t1.png", "t2.png"), street),
    **dict.fromkeys(("day1/", "day2/"), day),
    **dict.fromkeys(("DATASET", "DATASET_DIR", "DIR", "data/levir256", "data/whu256"), pairs),
    "runs/kdmsi_town/pairs": pairs,
    **dict.fromkeys(("2018.gpkg", "2024.geojson"), footprints),
    **dict.fromkeys(("review.geojson", "ada.geojson", "grace.geojson"), review),
    **dict.fromkeys(("first.json", "second.json", "item.json"), item),
    "RAW": whu,
    "splits/levir": lists,
    "ChangeSim": changesim,
    "PCD": pcd,
    "VL-CMU-CD": cmu,
    "places/": places,
    "answers.gpkg": answers,
    "pairs.csv": table,
    "search.json": search,
    "reference.tif": reference,
    "change.tif": mask_of_change,
    "change.gpkg": layer,
    "reviewed.gpkg": reviewed,
    "town.safetensors": exported,
    "scene.ckpt": weights("scene"),
    "kd.ckpt": weights("kd"),
    "runs/kd/config.yaml": streams,
    "runs/kd/best.ckpt": weights("kd"),
    "runs/kdmsi_whu/kd/best.ckpt": weights("kd"),
    "runs/*/best.ckpt": weights("supervised"),
    "runs/*/detector/best.ckpt": weights("supervised"),
}
"""What the names of a page stand for."""


@dataclass
class Stock:
    """What pages begin with, made once."""

    folder: Path
    fields: bool = False
    is_large: bool = False

    @property
    def town(self) -> Path:
        return self.folder / "town"

    @property
    def large(self) -> Path:
        if not (path := self.folder / "large").exists():
            command("sample", "-o", str(path), "--size", "320,320", "--seed", "3")
        return path

    def supply(self, path: Path) -> None:
        """Make a file, if it is not there."""
        name = path.relative_to(Path.cwd()).as_posix() if path.is_absolute() else path.as_posix()
        folder = path.is_dir() or f"{name}/" in SUPPLIES
        for pattern, make in SUPPLIES.items():
            if fnmatch(f"{name}/" if folder else name, pattern) and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                if self.fields and make is town:
                    shutil.copy2(self.folder / f"field{1 + ('2' in path.stem[-1:])}.tif", path)
                else:
                    make(path, self)

    def dates(self, folder: Path) -> list[str]:
        for name in ("t1.tif", "t2.tif"):
            self.supply(folder / name)
        return ["t1.tif", "t2.tif"]

    def checkpoint(self, kind: str) -> Path:
        path = self.folder / f"{kind}.ckpt"
        if not path.exists():
            torch.manual_seed(0)
            method, args, halo = CHECKPOINTS[kind]
            task = ChangeTask(method, args, patch_size=64, halo=halo)
            trainer = Trainer(
                logger=False, enable_checkpointing=False, accelerator="cpu", max_steps=1
            )
            trainer.strategy.connect(task)
            trainer.save_checkpoint(path)
        return path


def interpreted(stock: Stock) -> None:
    """Someone says of every point what is there."""
    points = geopandas.read_file("points.gpkg")
    points["reference"] = ["change" if mapped else "no change" for mapped in points["map"]]
    points.to_file("points.gpkg", layer="points", engine="pyogrio")


def decided(stock: Stock) -> None:
    decide(Path("change.gpkg"), "review_order")


BETWEEN = {"rscd sample-points": interpreted, "rscd review next": decided}
"""What a person does after a line, before the next."""


def command(*words: str) -> int:
    """Run a command in this process; its exit code."""
    try:
        return main([*words, "-q"] if words[0] not in ("train", "config") else words)
    except SystemExit as end:  # wrong usage
        return int(end.code or 0)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory, write_tif: Callable[..., Path]) -> Stock:
    folder = tmp_path_factory.mktemp("stock")
    assert command("sample", "-o", str(folder / "town"), "--size", "96,96", "--seed", "3") == 0
    random = np.random.default_rng(0)
    t1 = random.integers(60, 140, (4, 112, 112)).astype(np.uint8)
    t2 = t1 + random.integers(0, 3, (4, 112, 112)).astype(np.uint8)
    for index in range(49):
        square = t2[:, 4 + 16 * (index // 7) :, 4 + 16 * (index % 7) :][:, :6, :6]
        square += np.array([70, 20, 90, 50], np.uint8)[:, None, None]
    for number, pixels in ((1, t1), (2, t2)):
        write_tif(folder / f"field{number}.tif", pixels)
    return Stock(folder)


@pytest.fixture
def small_buildings(buildings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network that ships sees less around a tile, so that small scenes are quick."""
    card = rscd.inference.shipped.shipped_card() | {"halo": 16}
    graph = onnx.load(rscd.inference.shipped.shipped_path(".onnx"))
    onnx.helper.set_model_props(graph, {CARD_KEY: json.dumps(card)})
    onnx.save(graph, buildings.with_suffix(".onnx"))
    card |= {name: sha256_of(buildings.with_suffix(suffix)) for suffix, name in CHECKSUMS.items()}
    buildings.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")
    for place in (rscd.inference.shipped, rscd.training.run):
        monkeypatch.setattr(
            place, "shipped_path", lambda suffix=".safetensors": buildings.with_suffix(suffix)
        )


def prepared(words: Sequence[str]) -> int:
    """Bring a training to where its first step would be; the exit code."""
    where = next(i for i, word in enumerate(words) if word in ("-c", "--config"))
    path, rest = find(words[where + 1]), [*words[1:where], *words[where + 2 :]]
    if not is_chain(path):
        return command(*words, "--print_config")
    for stage in read_chain(path, rest):
        stage.folder.mkdir(parents=True, exist_ok=True)
        args, unknown = build_parser().parse_known_args(arguments(stage))
        assert not unknown or args.takes_rest
    return 0


def outputs(words: Sequence[str]) -> Iterator[Path]:
    """Files that a line writes and does not read."""
    for before, word in pairwise(words):
        if before in WRITTEN and words.count(word) == 1 and "{" not in word:
            yield Path(word)


def run(line: Line, stock: Stock, served: Callable[[str], str]) -> int:
    words = list(line.words)
    text = shlex.join(words).replace("'$SLURM_ARRAY_TASK_ID/20'", "$SLURM_ARRAY_TASK_ID/20")
    for before, after in INSTEAD.items():
        text = text.replace(before, after)
    words = shlex.split(text)
    if words[0] == "cd":
        os.chdir(words[1])
        return 0
    if words[0] == "mkdir":
        for word in words[2:]:
            Path(word).mkdir(parents=True, exist_ok=True)
        return 0
    if words[:2] == ["rscd", "train"]:
        return prepared([("configs/" in word and str(ROOT / word)) or word for word in words[1:]])
    made = list(outputs(words))
    if words[:3] == ["rscd", "data", "split"]:
        made += Path(words[3]).glob("split_*.json")
    for path in made:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for word in words:
        if Path(word) not in made and "://" not in word:
            stock.supply(Path.cwd() / word)
    words = [re.sub(r"^https://host/", served(""), word, flags=re.IGNORECASE) for word in words]
    return command(*words[1:])


def is_run(line: Line) -> bool:
    skipped = NOT_RUN if ALL else NOT_RUN | SLOW
    return line.like(skipped) is None


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in LONG else [])
        for page in PAGES
        if any(map(is_run, lines_of(page)))
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_examples_run(
    page: Path,
    stock: Stock,
    web: Any,
    small_buildings: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    stock.fields, stock.is_large = page.stem in FIELDS, page.stem in LARGE

    def served(name: str) -> str:
        for file in ("t1.tif", "2019.tif", "2023.tif"):
            if not (web.folder / file).exists():
                stock.supply(tmp_path / file)
                shutil.copy2(tmp_path / file, web.folder / file)
        return str(web.at(name))

    for line in filter(is_run, lines_of(page)):
        code = run(line, stock, served)
        said = capsys.readouterr()
        assert code in CODES.get(line.words[1], (0,)), f"{line.text}\n{said.err[-2000:]}"
        for path in outputs(line.words):
            assert path.exists() or line.words[:2] == ["rscd", "train"], line.text
        if (after := line.like(BETWEEN)) is not None:
            BETWEEN[after](stock)


def test_what_is_not_run_is_on_a_page() -> None:
    every = [line for page in PAGES for line in lines_of(page)]
    left = [p for p in NOT_RUN | SLOW if not any(line.like([p]) for line in every)]
    assert not left
