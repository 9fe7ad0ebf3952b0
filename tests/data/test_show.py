"""Contact sheets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rscd.base.errors import DataError, OutputError
from rscd.base.types import CHANGE_RGB
from rscd.data.images import write_picture
from rscd.data.plots import UNKNOWN_COLOUR, plot_samples, to_colours, to_rgb
from rscd.data.show import show, spread, write_sheet


def folder(root: Path, n: int = 3, bands: int = 3, masks: bool = True) -> Path:
    rng = np.random.default_rng(0)
    for i in range(n):
        arrays = {"A": rng.integers(0, 255, (bands, 20, 30), dtype=np.uint8)}
        arrays["B"] = rng.integers(0, 255, (bands, 20, 30), dtype=np.uint8)
        if masks:
            arrays["label"] = np.eye(20, 30, dtype=np.uint8)[None] * np.uint8(255)
        for name, array in arrays.items():
            (root / name).mkdir(parents=True, exist_ok=True)
            write_picture(root / name / f"p{i}.tif", array)
    return root


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return picture.size


def test_sheet(tmp_path: Path) -> None:
    root = folder(tmp_path / "data")
    small = show(root, tmp_path / "out" / "sheet.png", n=1)
    width, height = size(small)
    whole = size(show(root, tmp_path / "all.png"))
    assert whole[0] == width
    assert whole[1] == pytest.approx(3 * height, rel=0.1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sheet.png"]


@pytest.mark.parametrize("bands", [1, 2, 4, 13])
def test_any_number_of_bands(tmp_path: Path, bands: int) -> None:
    root = folder(tmp_path / "data", 1, bands, masks=False)
    assert size(show(root, tmp_path / "sheet.png"))


def test_colours() -> None:
    image = np.zeros((2, 3, 4, 4), np.float32)
    image[0, :, 0, 0] = 255
    assert to_rgb(image)[0, 0, 0].tolist() == [1, 1, 1]
    reflectance = np.random.default_rng(0).uniform(200, 3000, (2, 5, 32, 32)).astype(np.float32)
    shown = to_rgb(reflectance, [4, 2, 0])
    assert shown.shape == (2, 32, 32, 3)
    assert shown.min() == 0
    assert shown.max() == 1
    assert to_rgb(np.full((2, 1, 4, 4), np.nan, np.float32)).shape == (2, 4, 4, 3)
    mask = to_colours(np.array([[0, 1, 255, 9]]))
    assert mask[0, 0].tolist() == [0, 0, 0]
    assert np.rint(255 * mask[0, 1]).tolist() == list(CHANGE_RGB)
    assert mask[0, 3].tolist() == pytest.approx(UNKNOWN_COLOUR)


@given(st.integers(1, 50), st.integers(1, 12))
@settings(deadline=None)
def test_spread(count: int, n: int) -> None:
    chosen = spread(count, n)
    assert len(chosen) == len(set(chosen)) == min(count, n)
    assert chosen == sorted(chosen)
    assert chosen[0] == 0
    if n > 1:
        assert chosen[-1] == count - 1


def test_samples_without_mask_and_with_label() -> None:
    image = torch.zeros(2, 3, 8, 8)
    samples: list[dict[str, Any]] = [
        {"image": image, "name": "a", "label": torch.tensor(1)},
        {"image": image},
    ]
    figure = plot_samples(samples)
    assert len(figure.axes) == 4
    assert figure.axes[0].get_ylabel() == "a\nlabel 1"


def test_failures(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", 1)
    with pytest.raises(DataError, match="at least one pair"):
        show(root, tmp_path / "x.png", n=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="expected to write"):
        write_sheet([{"image": torch.zeros(2, 1, 4, 4)}], tmp_path / "file" / "x.png")
