"""TorchGeo's datasets through one function; archives are local, the download code is TorchGeo's."""

import functools
import hashlib
import http.server
import io
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchgeo.datasets
from PIL import Image
from torch import Tensor
from torchgeo.datasets import LEVIRCD, OSCD, LEVIRCDPlus

from rscd.base.errors import DataError
from rscd.data.compat import SampleTransform, dataset_class, torchgeo_version
from rscd.data.folder import PairFolder
from rscd.data.torchgeo_sets import SETS, CommonSample, torchgeo_dataset
from rscd.methods.kdmsi import KdMsi
from rscd.training.module import ChangeDataModule


def png(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(array).save(data, "png")
    return data.getvalue()


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)


def change() -> np.ndarray:
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4] = 255
    return mask


def zipped(path: Path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which this machine serves it to itself."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def levir_archives(served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, address = served
    splits = {}
    for split, entry in LEVIRCD.splits.items():
        content = {"A": png(picture(0)), "B": png(picture(1)), "label": png(change())}
        files = {f"{place}/{split}_{i}.png": content[place] for i in (1, 2) for place in content}
        path = folder / f"{split}.zip"
        splits[split] = {**entry, "url": f"{address}/{path.name}", "md5": zipped(path, files)}
    monkeypatch.setattr(LEVIRCD, "splits", splits)


@pytest.mark.filterwarnings("ignore:.*`isinstance.treespec, LeafSpec.` is deprecated")
def test_download_goes_through_torchgeo(
    tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    levir_archives(served, monkeypatch)
    root = tmp_path / "data"
    with pytest.raises(DataError, match=r"levir-cd is not in .*expected A/ B/ label/.*download="):
        torchgeo_dataset("levir-cd", root)
    data = torchgeo_dataset("levir-cd", root, "val", download=True)
    assert isinstance(data, LEVIRCD)
    assert len(data) == 2
    sample = data[0]
    assert sample["image"].shape == (2, 3, 8, 8)
    assert np.array_equal(sample["image"][1], np.moveaxis(picture(1), 2, 0))
    assert np.array_equal(sample["mask"][0], change() > 0)

    pairs = PairFolder(root, "val")  # the same folder, read by the other class
    assert pairs.names == ("val_1", "val_2")
    assert torch.equal(pairs[0]["image"], sample["image"])
    assert torch.equal(pairs[0]["mask"], sample["mask"])

    stream: dict[str, Any] = {"class_path": "rscd.data.torchgeo_sets.torchgeo_dataset"}
    stream["init_args"] = {"name": "levir-cd", "root": str(root), "split": "val"}
    module = ChangeDataModule({"train": stream}, batch_size=2, needs=KdMsi.needs)
    module.setup("fit")
    batch, _, _ = next(iter(module.train_dataloader()))
    assert batch["train"]["label"].tolist() == [1, 1]
    assert set(batch["train"]) == {"image", "label"}


@pytest.mark.parametrize(
    ("changed", "least", "label"), [(0, 1, 0), (1, 1, 1), (5, 6, 0), (6, 6, 1)]
)
def test_labels_are_counted_from_masks(changed: int, least: int, label: int) -> None:
    mask = torch.zeros(1, 4, 4)
    mask.view(-1)[:changed] = 2
    assert CommonSample(2, None, least)({"mask": mask})["label"] == label


def test_damaged_downloads_are_refused(
    tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    levir_archives(served, monkeypatch)
    (served[0] / "train.zip").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"could not be fetched.*corrupted.*by hand"):
        torchgeo_dataset("levir-cd", tmp_path / "data", download=True)
    (served[0] / "train.zip").unlink()
    with pytest.raises(DataError, match="could not be fetched"):
        torchgeo_dataset("levir-cd", tmp_path / "other", download=True)


def test_levir_plus(
    tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"A": png(picture(0)), "B": png(picture(1)), "label": png(change())}
    files = {f"LEVIR-CD+/{s}/{p}/1.png": content[p] for s in ("train", "test") for p in content}
    archive = served[0] / "plus.zip"
    monkeypatch.setattr(LEVIRCDPlus, "md5", zipped(archive, files))
    monkeypatch.setattr(LEVIRCDPlus, "url", f"{served[1]}/plus.zip")
    data = torchgeo_dataset("LEVIR-CD+", tmp_path / "data", "test", download=True)
    assert len(data) == 1
    assert len(PairFolder(tmp_path / "data" / "LEVIR-CD+", "test")) == 1


def oscd_tree(root: Path) -> None:
    start = root / "Onera Satellite Change Detection dataset - "
    images = Path(f"{start}Images") / "town"
    labels = Path(f"{start}Train Labels") / "town" / "cm"
    labels.mkdir(parents=True)
    (labels / "cm.png").write_bytes(png(change()))
    for date in (1, 2):
        folder = images / f"imgs_{date}_rect"
        folder.mkdir(parents=True)
        for i, band in enumerate(OSCD.all_bands):
            array = np.full((8, 8), 1000 * date + i, np.uint16)
            Image.fromarray(array).save(folder / f"{band}.tif")
    (images / "dates.txt").write_text("date_1: 20160101\ndate_2: 20170101\n")


def test_oscd_with_thirteen_bands_and_a_transform(tmp_path: Path) -> None:
    oscd_tree(tmp_path)
    plain = torchgeo_dataset("oscd", tmp_path)[0]
    assert plain["image"].shape == (2, 13, 8, 8)
    assert plain["image"][1, 3, 0, 0] == 2003
    assert np.array_equal(plain["mask"][0], change() > 0)
    seen = []

    def look(sample: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(sample["image"].shape)
        return sample

    chosen = torchgeo_dataset("oscd", tmp_path, bands=("B04", "B03"), transforms=look)[0]
    assert seen == [(2, 2, 8, 8)]
    assert chosen["image"].shape == (2, 2, 8, 8)


def test_xbd_classes_become_change(tmp_path: Path) -> None:
    damage = np.arange(64, dtype=np.uint8).reshape(8, 8) % 5
    building = (damage > 0).astype(np.uint8)
    for split in ("train", "test"):
        for place in ("images", "targets"):
            (tmp_path / split / place).mkdir(parents=True)
        for date, target in (("pre", building), ("post", damage)):
            name = f"flood_00000001_{date}_disaster"
            (tmp_path / split / "images" / f"{name}.png").write_bytes(png(picture(0)))
            (tmp_path / split / "targets" / f"{name}_target.png").write_bytes(png(target))
    sample = torchgeo_dataset("xview2", tmp_path)[0]
    assert sample["mask"].shape == (1, 8, 8)
    assert np.array_equal(sample["mask"][0], damage >= 2)


def test_xbd_is_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be downloaded automatically; .*xview2\.org"):
        torchgeo_dataset("xbd", tmp_path, download=True)
    with pytest.raises(DataError, match=r"xbd is not in .*targets\.tar\.gz; get it from"):
        torchgeo_dataset("xbd", tmp_path)
    for split in ("train", "test"):
        with tarfile.open(tmp_path / f"{split}_images_labels_targets.tar.gz", "w:gz"):
            pass
    with pytest.raises(DataError, match=r"could not be fetched or unpacked.*corrupted"):
        torchgeo_dataset("xbd", tmp_path)


def test_masks_become_change() -> None:
    damage = torch.tensor([[0, 1], [2, 3]])
    bright = CommonSample(SETS["bright"].first_change, None)({"mask": damage[None]})
    assert bright["mask"].tolist() == [[[0, 0], [1, 1]]]
    xbd = CommonSample(SETS["xbd"].first_change, lambda s: s | {"seen": True})({"mask": damage})
    assert xbd["mask"].tolist() == [[[0, 1], [1, 1]]]
    assert xbd["seen"]
    assert CommonSample(None, None)({"image": damage}) == {"image": damage}


def test_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train_eval.hdf5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"chabud needs another package: .*h5py"):
        torchgeo_dataset("chabud", tmp_path, checksum=False)


def test_unknown_sets_and_splits() -> None:
    with pytest.raises(DataError, match="no TorchGeo set 'levir'; known are levir-cd,"):
        torchgeo_dataset("levir", "x")
    with pytest.raises(DataError, match="oscd has no split 'val'; it has train, test"):
        torchgeo_dataset("oscd", "x", "val")


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torchgeo_version().count(".") >= 1
    stand_in = type("xBD", (LEVIRCD,), {})
    monkeypatch.setattr(torchgeo.datasets, "xBD", stand_in, raising=False)
    assert dataset_class(SETS["xbd"].classes) is stand_in
    with pytest.raises(DataError, match="has no dataset Nothing or Nowhere; install a newer"):
        dataset_class(("Nothing", "Nowhere"))


def test_batch_dimension_is_kept() -> None:
    double = SampleTransform(lambda s: {**s, "image": s["image"] * 2})
    single, batched = torch.ones(2, 3, 4, 4), torch.ones(1, 2, 3, 4, 4)
    assert double({"image": single})["image"].shape == single.shape
    assert double({"image": batched})["image"].shape == batched.shape
