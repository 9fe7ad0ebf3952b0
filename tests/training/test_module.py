"""The data module: streams by need, checked at the start, through Lightning's own trainer."""

import ast
import logging
import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import cv2
import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from rscd.base.errors import DataError
from rscd.data.folder import PairFolder
from rscd.data.scenes import ScenePairs
from rscd.data.splits import Split
from rscd.synthetic.town_pairs import TownPairs
from rscd.training.module import ChangeDataModule, Stream, build_dataset
from rscd.training.streams import Joined

WriteTif = Callable[..., Path]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Lightning's advice about loggers, workers and GPUs is not about the data."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        yield


def make_folder(root: Path, split: str, count: int, size: int = 16, bands: int = 3) -> None:
    rng = np.random.default_rng(len(split) + count)
    for folder in ("A", "B", "label"):
        (root / split / folder).mkdir(parents=True)
    for i in range(count):
        for folder in ("A", "B"):
            pixels = rng.integers(0, 255, (size, size, bands), dtype=np.uint8)
            cv2.imwrite(str(root / split / folder / f"{split}{i}.png"), pixels)
        mask = (rng.random((size, size)) < 0.3).astype(np.uint8) * 255
        cv2.imwrite(str(root / split / "label" / f"{split}{i}.png"), mask)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, count in (("train", 7), ("val", 5), ("test", 3)):
        make_folder(tmp_path / "set", split, count)
    return tmp_path / "set"


def folder(root: Path, split: str, **options: Any) -> dict[str, Any]:
    return {
        "class_path": "rscd.data.folder.PairFolder",
        "init_args": {"root": str(root), "split": split, **options.pop("init_args", {})},
        **options,
    }


class Task(LightningModule):
    """Counts what it is given."""

    needs: ClassVar[dict[str, set[str]]] = {
        "labeled": {"image", "mask"},
        "unlabeled": {"image"},
    }

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(6, 1, 1)
        self.batches: list[dict[str, list[str]]] = []
        self.keys: list[dict[str, set[str]]] = []
        self.val_names: list[str] = []
        self.counted = 0

    def training_step(self, batch: dict[str, Any], _index: int) -> Tensor:
        self.batches.append({name: part["name"] for name, part in batch.items()})
        self.keys.append({name: set(part) for name, part in batch.items()})
        losses = [self.layer(part["image"].flatten(1, 2) / 255).square().mean()
                  for part in batch.values()]  # fmt: skip
        return torch.stack(losses).sum() + 0.01 * torch.rand(()) * losses[0]

    def validation_step(self, batch: dict[str, Any], _index: int) -> None:
        self.val_names += batch["name"]
        self.counted += int((batch["mask"] != 255).sum())

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(path: Path, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=path,
        enable_checkpointing=options.pop("enable_checkpointing", False), **options,
    )  # fmt: skip


def data(root: Path, **options: Any) -> ChangeDataModule:
    streams = {
        "labeled": folder(root, "train", init_args={"names": ["train0", "train1", "train2"]}),
        "unlabeled": folder(root, "train"),
        "val": folder(root, "val"),
        "test": folder(root, "test"),
    }
    return ChangeDataModule({**streams, **options.pop("streams", {})}, batch_size=2, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_streams_are_joined_and_cut_to_what_the_method_needs(
    root: Path, tmp_path: Path, workers: int
) -> None:
    task = Task()
    trainer(tmp_path, max_epochs=2).fit(task, data(root, num_workers=workers))
    assert len(task.batches) == 6  # the longest stream, 7 pairs, gives 3 whole batches
    for keys in task.keys:
        assert keys["labeled"] == {"image", "mask", "name"}
        assert keys["unlabeled"] == {"image", "name"}
    for epoch in (task.batches[:3], task.batches[3:]):
        names = [n for batch in epoch for n in batch["unlabeled"]]
        assert len(set(names)) == 6
    assert task.batches[:3] != task.batches[3:]
    assert task.val_names == [f"val{i}" for i in range(5)] * 2
    assert task.counted == 2 * 5 * 256
    again = Task()
    trainer(tmp_path, max_epochs=2).fit(again, data(root))
    assert again.batches == task.batches  # whatever the number of workers
    other = Task()
    trainer(tmp_path, max_epochs=2).fit(other, data(root, seed=1))
    assert other.batches != task.batches


def test_a_weakly_supervised_run_opens_no_mask(root: Path, tmp_path: Path) -> None:
    class Weak(Task):
        needs: ClassVar[dict[str, set[str]]] = {"train": {"image", "label"}}

    for mask in (root / "train" / "label").iterdir():
        mask.unlink()
    (root / "list").mkdir()
    lines = [f"train{i}.png,0,0,{i % 2}\n" for i in range(7)]
    (root / "list" / "train_label.txt").write_text("".join(lines))
    task = Weak()
    module = data(root, streams={"train": folder(root, "train")})
    trainer(tmp_path, max_epochs=1).fit(task, module)
    assert all(keys["train"] == {"image", "label", "name"} for keys in task.keys)
    assert set(task.keys[0]) == {"train"}  # labeled and unlabeled were not asked for


def test_no_worker_survives_a_run(root: Path, tmp_path: Path) -> None:
    trainer(tmp_path, max_epochs=1).fit(Task(), data(root, num_workers=1))
    assert multiprocessing.active_children() == []
    broken = root / "train" / "A" / "train5.png"
    broken.write_bytes(b"")
    with pytest.raises(DataError, match=r"A/train5\.png"):
        trainer(tmp_path, max_epochs=2).fit(Task(), data(root, num_workers=1))
    assert multiprocessing.active_children() == []


DDP = """
sys.path.insert(0, tests)
from lightning.pytorch import Trainer
from test_module import Task, data, folder

task = Task()
trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False,
                  enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
                  enable_checkpointing=False, default_root_dir=out)
trainer.fit(task, data(root, seed=3, streams={"labeled": folder(root, "train")}))
lines = [f"{b['unlabeled']}|{b['labeled']}" for b in task.batches]
text = "\\n".join([*lines, f"counted {task.counted}", f"val {task.val_names}"])
(out / f"rank{trainer.global_rank}.txt").write_text(text)
"""


@pytest.mark.slow
def test_two_processes_share_the_samples(
    root: Path, tmp_path: Path, on_two_processes: Callable[..., None]
) -> None:
    on_two_processes(DDP, tests=str(Path(__file__).parent), root=root, out=tmp_path)
    ranks = [(tmp_path / f"rank{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    steps = [[ast.literal_eval(line.split("|")[0]) for line in r if "|" in line] for r in ranks]
    assert len(steps[0]) == len(steps[1]) == 2  # 7 pairs, 2 processes, batches of 2, 2 epochs
    for epoch in zip(*steps, strict=True):
        names = [name for batch in epoch for name in batch]
        assert len(set(names)) == 4
    counted = sum(int(line.split()[1]) for r in ranks for line in r if line.startswith("counted"))
    assert counted == 2 * 5 * 256  # the sixth validation sample only fills up


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / f"{self.step}.ckpt")
            raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_a_stopped_run_resumes_with_the_next_batch(root: Path, tmp_path: Path, stop: int) -> None:
    streams = {"labeled": folder(root, "train", init_args={"names": ["train0", "train1"]})}
    torch.manual_seed(0)
    whole = Task()
    start = {k: v.clone() for k, v in whole.state_dict().items()}
    trainer(tmp_path, max_epochs=2).fit(whole, data(root, streams=streams))
    stopped = Task()
    stopped.load_state_dict(start)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(tmp_path, max_epochs=2, callbacks=[StopAt(stop)]).fit(
            stopped, data(root, streams=streams)
        )
    resumed = Task()
    trainer(tmp_path, max_epochs=2).fit(
        resumed, data(root, streams=streams), ckpt_path=tmp_path / f"{stop}.ckpt",
        weights_only=True,
    )  # fmt: skip
    assert stopped.batches + resumed.batches == whole.batches


def test_missing_streams_and_keys_fail_at_the_start(root: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, max_epochs=1)
    module = data(root)
    module.streams.pop("unlabeled")
    with pytest.raises(DataError, match="needs the stream 'unlabeled', configured are labeled"):
        run.fit(Task(), module)
    images_only = folder(root, "train", init_args={"keys": ["image"]})
    with pytest.raises(
        DataError, match=r"stream 'labeled' \(PairFolder in .*set\): the method needs mask, its "
        "samples have image"
    ):  # fmt: skip
        run.fit(Task(), data(root, streams={"labeled": images_only}))
    with pytest.raises(DataError, match=r"label.*list"):
        ChangeDataModule(
            {"train": folder(root, "train")}, needs={"train": ["image", "label"]}
        ).setup("fit")
    with pytest.raises(DataError, match="expected a stream 'predict' to predict"):
        data(root).setup("predict")
    with pytest.raises(DataError, match="expected a stream to train on, found val"):
        ChangeDataModule({"val": folder(root, "val")}).setup("fit")
    with pytest.raises(DataError, match=r"stream 'train' .* no split 'trian'"):
        ChangeDataModule({"train": folder(root, "trian")}).setup("fit")


def test_bands_must_agree(root: Path, tmp_path: Path) -> None:
    make_folder(tmp_path / "gray", "train", 4, bands=1)
    module = data(root, streams={"unlabeled": folder(tmp_path / "gray", "train")})
    with pytest.raises(DataError, match=r"the same bands .*, found 3 in .*, 1 in stream 'unlab"):
        module.setup("fit")
    whole = data(root)
    whole.setup("fit")
    assert whole.n_bands == 3


def test_too_few_samples_for_a_batch_are_an_error(root: Path) -> None:
    module = data(root, streams={"labeled": folder(root, "train", batch_size=9)})
    module.setup("fit")
    with pytest.raises(DataError, match=r"at least one batch of 9 .* found 7 samples; reduce"):
        module.train_dataloader()


def test_a_corrupt_file_stops_the_run_or_is_skipped(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = root / "train" / "B" / "train4.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(DataError, match=r"stream 'unlabeled' .*B/train4\.png"):
        trainer(tmp_path, max_epochs=2).fit(Task(), data(root))
    task, module = Task(), data(root, on_error="skip")
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, max_epochs=3).fit(task, module)
    assert "train4.png" in caplog.text
    assert "could not be read and were skipped" in caplog.text
    seen = {n for batch in task.batches for n in batch["unlabeled"]}
    assert seen == {f"train{i}" for i in range(7)} - {"train4"}


def test_nothing_readable_is_an_error_also_when_skipping(root: Path) -> None:
    for file in (root / "train" / "A").iterdir():
        file.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"stream 'labeled' .*A/train\d\.png"):
        data(root, on_error="skip").setup("fit")


def test_scenes_and_towns_are_streams_too(tmp_path: Path, write_tif: WriteTif) -> None:
    rng = np.random.default_rng(0)
    paths = [str(write_tif(tmp_path / f"{t}.tif", rng.integers(1, 99, (3, 90, 70), dtype=np.uint8)))
             for t in (1, 2)]  # fmt: skip
    label = str(write_tif(tmp_path / "l.tif", (rng.random((90, 70)) < 0.1).astype(np.uint8)))
    scenes = scene_stream({"t1": paths[0], "t2": paths[1]})
    away = Affine(10, 0, 600_000, 0, -10, 5_000_000)
    for path in (*paths, label):
        with rasterio.open(path) as read:
            write_tif(Path(f"{path}.val.tif"), read.read(), transform=away)
    elsewhere = scene_stream({"t1": f"{paths[0]}.val.tif", "t2": f"{paths[1]}.val.tif",
                              "labels": f"{label}.val.tif"})  # fmt: skip
    towns = {
        "class_path": "rscd.synthetic.town_pairs.TownPairs",
        "init_args": {"length": 4, "patch_size": 32, "nuisance": {"haze": [0, 0.2]}},
    }
    module = ChangeDataModule(
        {
            "labeled": towns,
            "unlabeled": {**scenes, "patch_size": 32, "length": 8},
            "val": {**elsewhere, "patch_size": 32},
        },
        batch_size=2,
    )
    task = Task()
    trainer(tmp_path, max_epochs=2).fit(task, module)
    assert len(task.batches) == 8
    seen = [n for batch in task.batches for n in batch["labeled"]]
    # the towns go round twice within an epoch, and are new towns each time
    assert len(set(seen)) == len(seen) == 16
    patches = [n for batch in task.batches for n in batch["unlabeled"]]
    assert len(set(patches)) > 12
    assert task.counted == 2 * 90 * 70  # every pixel once, padding never
    with pytest.raises(DataError, match=r"stream 'val' .*: georeferenced .* set patch_size"):
        ChangeDataModule({"train": towns, "val": elsewhere}).setup("fit")


def scene_stream(*scenes: dict[str, Any], **options: Any) -> dict[str, Any]:
    init_args = {"scenes": list(scenes)}
    return {"class_path": "rscd.data.scenes.ScenePairs", "init_args": init_args, **options}


def test_several_datasets_are_one_stream(root: Path, tmp_path: Path, write_tif: WriteTif) -> None:
    """Pairs without a place, tiles of a scene and endless towns, mixed anew in every epoch."""
    rng = np.random.default_rng(0)
    t1, t2 = (str(write_tif(tmp_path / f"{t}.tif", rng.integers(1, 99, (3, 32, 32), np.uint8)))
              for t in (1, 2))  # fmt: skip
    towns = {"class_path": "rscd.synthetic.town_pairs.TownPairs",
             "init_args": {"length": 3, "patch_size": 16}}  # fmt: skip
    parts = [folder(root, "train"), scene_stream({"t1": t1, "t2": t2}, patch_size=16), towns]
    module = ChangeDataModule(
        {"train": {"datasets": parts}},
        needs={"train": {"image", "valid"}}, batch_size=2, seed=4,
    )  # fmt: skip
    module.setup("fit")
    loader = module.train_dataloader().iterables["train"]
    epochs = []
    for epoch in (0, 1):
        loader.batch_sampler.set_epoch(epoch)
        batches = list(loader)
        assert {tuple(batch["image"].shape) for batch in batches} == {(2, 2, 3, 16, 16)}
        epochs.append([name for batch in batches for name in batch["name"]])
        kinds = ["".join(filter(str.isalpha, name))[:3] for name in epochs[-1]]
        assert {kind: kinds.count(kind) for kind in kinds} == {"tra": 7, "row": 4, "tow": 3}
        assert kinds != sorted(kinds, key=["tra", "row", "tow"].index)  # not one after another
    assert epochs[0] != epochs[1]


def test_a_joined_stream_evaluates_every_pair_once(root: Path, tmp_path: Path) -> None:
    val = {"datasets": [folder(root, "val"), folder(root, "test")]}
    task = Task()
    trainer(tmp_path, max_epochs=1).fit(task, data(root, streams={"val": val}))
    assert task.val_names == [f"val{i}" for i in range(5)] + [f"test{i}" for i in range(3)]
    leak = {"datasets": [folder(root, "val"), folder(root, "train")]}
    with pytest.raises(DataError, match=r"PairFolder.* \+ PairFolder.*, found \d in both"):
        ChangeDataModule({"train": folder(root, "train"), "val": leak}).setup("fit")
    with pytest.raises(
        DataError, match="stream 'val': expected class_path or datasets, found both"
    ):
        data(root, streams={"val": {**val, "class_path": "x"}})
    with pytest.raises(DataError, match="stream 'val, dataset 1': expected class_path"):
        data(root, streams={"val": {"datasets": [{"init_args": {}}]}})


def test_scenes_that_show_the_same_ground_are_refused(tmp_path: Path, write_tif: WriteTif) -> None:
    image = np.ones((3, 64, 64), np.uint8)
    for name, left in (("a", 500_000), ("b", 500_640), ("c", 500_300)):
        for date in (1, 2, 3):
            place = Affine(10, 0, left, 0, -10, 5_000_000)
            write_tif(tmp_path / f"{name}{date}.tif", image, transform=place)
    halves = {}
    for name, left in (("west", 500_000), ("east", 500_320)):
        frame = geopandas.GeoDataFrame(
            geometry=[shapely.box(left, 4_999_360, left + 320, 5_000_000)], crs="EPSG:32633"
        )
        halves[name] = str(tmp_path / f"{name}.geojson")
        frame.to_crs("EPSG:4326").to_file(halves[name], engine="pyogrio")

    def scene(name: str, first: int = 1, second: int = 2, **more: Any) -> dict[str, Any]:
        t1, t2 = (str(tmp_path / f"{name}{date}.tif") for date in (first, second))
        return {"t1": t1, "t2": t2, **more}

    def check(train: dict[str, Any], val: dict[str, Any]) -> None:
        streams = {"train": scene_stream(train, patch_size=16),
                   "val": scene_stream(val, patch_size=16)}  # fmt: skip
        ChangeDataModule(streams, needs={"train": {"image"}, "val": {"image"}}).setup("fit")

    early, late = {"dates": ["2010-01-01", "2012-01-01"]}, {"dates": ["2013-01-01", "2015-01-01"]}
    check(scene("a"), scene("b"))  # neighbours
    check(scene("a", area=halves["west"]), scene("a", area=halves["east"]))
    check(scene("a", 1, 2, **early), scene("c", 1, 2, **late))
    for train, val in [
        (scene("a"), scene("a")),
        (scene("a"), scene("c")),
        (scene("c"), scene("b")),
        (scene("a"), scene("a", area=halves["east"])),
        (scene("a", 1, 2, **early), scene("a", 2, 3, **late)),  # the image between
    ]:
        with pytest.raises(DataError, match="found 1 in both, such as"):
            check(train, val)


def test_yaml_and_dotted_overrides_reach_the_streams(root: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ChangeDataModule, "data")
    text = {
        "data": {
            "batch_size": 2,
            "streams": {
                "train": {"class_path": "rscd.data.folder.PairFolder",
                          "init_args": {"root": str(root), "split": "train"}},
                "val": {"class_path": "rscd.synthetic.town_pairs.TownPairs",
                        "init_args": {"patch_size": 16, "gsd_m": [0.4, 0.6]}},
                "unlabeled": {"datasets": [folder(root, "test"), folder(root, "train")]},
            },
        }
    }  # fmt: skip
    parsed = parser.parse_object(text)
    dumped = parser.dump(parsed)
    assert "class_path: rscd.data.folder.PairFolder" in dumped
    again = parser.parse_string(dumped)
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    module = instantiate(again).data
    module.setup("fit")
    assert isinstance(module.dataset("train"), PairFolder)
    assert isinstance(module.dataset("val"), TownPairs)
    assert isinstance(module.dataset("unlabeled"), Joined)
    assert next(iter(module.train_dataloader()))[0]["train"]["mask"].shape == (2, 1, 16, 16)


def test_datasets_are_built_from_plain_data(tmp_path: Path, write_tif: WriteTif) -> None:
    path = str(write_tif(tmp_path / "a.tif", np.ones((1, 9, 9), np.uint8)))
    stream = Stream("rscd.data.scenes.ScenePairs", {"scenes": [{"t1": path, "t2": path}]})
    assert isinstance(build_dataset(stream, frozenset({"image"})), ScenePairs)
    with pytest.raises(DataError, match=r"no dataset 'rscd.data.folder.Nothing'"):
        build_dataset(Stream("rscd.data.folder.Nothing"))
    with pytest.raises(DataError, match=r"PairFolder does not take these init_args: .*rooot"):
        build_dataset(Stream("rscd.data.folder.PairFolder", {"rooot": "x"}))
    with pytest.raises(DataError, match="levir-cd is not in"):
        build_dataset(
            Stream("rscd.data.torchgeo_sets.torchgeo_dataset",
                   {"name": "levir-cd", "root": str(tmp_path)})
        )  # fmt: skip


def test_settings_that_cannot_be_meant(root: Path) -> None:
    with pytest.raises(DataError, match=r"stream 'train': expected class_path, .*, found rot"):
        ChangeDataModule({"train": {"class_path": "x", "rot": 1}})
    with pytest.raises(DataError, match="stream 'train': expected class_path, found none"):
        ChangeDataModule({"train": {"init_args": {}}})
    with pytest.raises(DataError, match="seed of 0 or more, found -1"):
        data(root, seed=-1)
    with pytest.raises(DataError, match="on_error stop or skip, found 'ignore'"):
        data(root, on_error="ignore")

    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield {}

    with pytest.raises(DataError, match="numbered samples"):
        ChangeDataModule({"train": Stream.of(Endless())}).setup("fit")

    class Single(Dataset[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"image": torch.zeros(3, 8, 8)}

    with pytest.raises(DataError, match=r"stream 'train' \(Single\): expected image \(2, bands"):
        ChangeDataModule({"train": Stream.of(Single())}).setup("fit")


def test_overfitting_repeats_the_same_batches(root: Path, tmp_path: Path) -> None:
    task = Task()
    trainer(tmp_path, max_epochs=3, overfit_batches=1).fit(task, data(root))
    assert len(task.batches) == 3
    assert task.batches[0] == task.batches[1] == task.batches[2]


def test_without_a_trainer_and_needs_every_key_is_there(root: Path) -> None:
    module = ChangeDataModule({"train": folder(root, "train")}, batch_size=3)
    with pytest.raises(DataError, match="call setup first"):
        module.test_dataloader()
    module.setup("fit")
    batch, _, _ = next(iter(module.train_dataloader()))
    assert {"image", "mask"} <= set(batch["train"])
    assert module.val_dataloader() == []


def test_evaluating_on_training_pairs_is_refused(root: Path) -> None:
    streams = {"train": folder(root, "train"), "val": folder(root, "train")}
    with pytest.raises(DataError, match=r"found 7 in both, such as .*train0\.png; choose disjoint"):
        ChangeDataModule(streams).setup("fit")


def test_streams_have_hashes_that_follow_their_pairs(root: Path, tmp_path: Path) -> None:
    names = PairFolder(root, "train").names
    parts = {"train": names[:4], "val": names[4:]}
    Split(parts, "by hand").write(tmp_path / "split.json")

    def stream(part: str) -> dict[str, Any]:
        args = {"root": str(root), "split": part, "split_file": str(tmp_path / "split.json")}
        return {"class_path": "rscd.data.folder.PairFolder", "init_args": args}

    module = ChangeDataModule({"train": stream("train"), "val": stream("val")}, batch_size=1)
    module.setup("fit")
    assert module.dataset("train").names == parts["train"]  # type: ignore[attr-defined]
    expected = {name: Split({name: tuple(pairs)}, "").hash for name, pairs in parts.items()}
    assert module.split_hashes == expected
    assert len(set(expected.values())) == 2
