"""Stored flow of every format means the same, and pairs with it replace generated ones."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from rscd.base.errors import DataError
from rscd.data.street_flow import FlowPairs, read_flow, resized_flow

H, W = 12, 16


def field() -> NDArray[Any]:
    rng = np.random.default_rng(0)
    return (rng.integers(-200, 200, (2, H, W)) / 64).astype(np.float32)  # KITTI's steps


def write(path: Path, flow: NDArray[Any], known: NDArray[Any] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".flo":  # the published format, byte by byte
        head = np.array([202021.25], "<f4").tobytes() + np.array([W, H], "<i4").tobytes()
        path.write_bytes(head + np.moveaxis(flow, 0, 2).astype("<f4").tobytes())
    elif path.suffix == ".npy":
        np.save(path, flow if known is None else np.where(known, flow, np.nan))
    else:
        mask = np.ones((H, W)) if known is None else known
        stored = np.stack([flow[0] * 64 + 32768, flow[1] * 64 + 32768, mask], 2)  # R, G, B
        cv2.imwrite(str(path), stored.astype(np.uint16)[..., ::-1])
    return path


def pair(
    root: Path,
    name: str,
    suffix: str = ".flo",
    flow: NDArray[Any] | None = None,
    places: tuple[str, str, str, str] = ("t0", "t1", "mask", "flow"),
) -> Path:
    rng = np.random.default_rng(1)
    for folder in places[:3]:
        path = root / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (H, W) if "mask" in folder else (H, W, 3)
        values = rng.integers(0, 2, shape) * 255
        Image.fromarray(values.astype(np.uint8)).save(path)
    write(root / places[3] / f"{name}{suffix}", field() if flow is None else flow)
    return root


@pytest.mark.parametrize("suffix", [".flo", ".npy", ".png"])
def test_every_format_is_the_same_flow(tmp_path: Path, suffix: str) -> None:
    flow, known = read_flow(write(tmp_path / f"a{suffix}", field()))
    np.testing.assert_array_equal(flow, field())
    assert known.all()
    assert flow.dtype == np.float32
    if suffix != ".flo":
        some = np.random.default_rng(2).random((H, W)) > 0.5
        flow, known = read_flow(write(tmp_path / f"b{suffix}", field(), some))
        np.testing.assert_array_equal(known, some)
        np.testing.assert_array_equal(flow, np.where(some, field(), 0))


def test_arrays_with_channels_last(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.moveaxis(field(), 0, 2))
    np.testing.assert_array_equal(read_flow(tmp_path / "a.npy")[0], field())


@pytest.mark.parametrize("name", ["a.flo", "a.npy", "a.png"])
def test_damaged_files_are_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(DataError, match=rf"{name}: expected flow"):
        read_flow(tmp_path / name)


def test_samples_and_sizes(tmp_path: Path) -> None:
    flow = np.zeros((2, H, W), np.float32)
    flow[0], flow[1] = 3, -2
    data = FlowPairs(pair(tmp_path, "a", flow=flow), keys={"image", "mask", "flow", "valid"})
    sample = data[0]
    assert set(sample) == {"name", "image", "mask", "flow", "valid"}
    valid = np.zeros((H, W), bool)
    valid[2:, : W - 3] = True
    np.testing.assert_array_equal(sample["valid"][0].numpy(), valid)
    double = FlowPairs(tmp_path, keys={"flow", "use_flow"}, size=(2 * H, 3 * W))[0]
    assert double["flow"].shape == (2, 2 * H, 3 * W)
    assert double["flow"][:, 5, 5].tolist() == [9, -4]
    assert double["use_flow"] == 1
    known = np.ones((H, W), bool)
    known[0] = False
    scaled, still = resized_flow(flow * known, known, (2 * H, W))
    assert set(np.unique(scaled[1])) == {0, -4}, "sparse flow is not blurred"
    assert still.sum() == 2 * (H - 1) * W


def test_the_layout_of_simsac(tmp_path: Path) -> None:
    for kind in ("new", "static"):
        places = (f"image/ref/{kind}", f"image/query/{kind}", f"mask/query/{kind}", f"flow/{kind}")
        pair(tmp_path, "0", places=places)
    data = FlowPairs(tmp_path)
    assert data.names == ("new/0", "static/0")
    assert torch.equal(data[1]["flow"], torch.from_numpy(field()))
    (tmp_path / "flow" / "new" / "0.flo").unlink()
    with pytest.raises(DataError, match=r"1 pairs have no flow file .* 'new/0'"):
        FlowPairs(tmp_path)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    pair(tmp_path, "a", ".npy")
    np.save(tmp_path / "flow" / "a.npy", np.zeros((2, H, W + 1), np.float32))
    with pytest.raises(DataError, match="the flow is 12 x 17 pixels"):
        FlowPairs(tmp_path)[0]
    with pytest.raises(DataError, match="no pairs with flow"):
        FlowPairs(tmp_path / "flow")
