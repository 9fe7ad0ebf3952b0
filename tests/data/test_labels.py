"""Image-level labels and their list files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rscd.base.errors import DataError
from rscd.data.labels import (
    format_label_list,
    image_label,
    labels_for,
    parse_label_list,
    read_label_list,
    write_label_list,
)

NAMES = st.text("abc_-.0123456789", min_size=1).filter(lambda n: not n.endswith((".png", ".tif")))


@given(st.dictionaries(NAMES, st.integers(0, 1)), st.sampled_from(["\n", "\r\n"]), st.booleans())
@settings(deadline=None)
def test_list_round_trip(labels: dict[str, int], newline: str, final: bool) -> None:
    text = format_label_list(labels).replace("\n", newline)
    assert parse_label_list(text if final else text.removesuffix(newline)) == labels


def test_list_format() -> None:
    assert format_label_list({"m0": 1, "m1": 0}) == "m0.png,0,0,1\nm1.png,0,0,0\n"
    assert parse_label_list("m0.png,1\n\n m1.jpg , 7, x, 0 ") == {"m0": 1, "m1": 0}
    with pytest.raises(DataError, match=r"x line 2: expected NAME\.png,0,0,L .* found 'b\.png,2'"):
        parse_label_list("a.png,0,0,1\nb.png,2", "x")
    with pytest.raises(DataError, match=r"line 1: expected"):
        parse_label_list("a.png")
    with pytest.raises(DataError, match=r"line 2: a already has the other label"):
        parse_label_list("a.png,0,0,1\na.png,0,0,0")


def test_files(tmp_path: Path) -> None:
    write_label_list(tmp_path / "list" / "train_label.txt", {"a": 1})
    assert (tmp_path / "list" / "train_label.txt").read_bytes() == b"a.png,0,0,1\n"
    assert read_label_list(tmp_path / "list" / "train_label.txt") == {"a": 1}
    assert len(list((tmp_path / "list").iterdir())) == 1
    with pytest.raises(DataError, match=r"no readable list of image-level labels"):
        read_label_list(tmp_path / "none.txt")


@given(st.integers(0, 30), st.integers(1, 30), st.integers(0, 5))
@settings(deadline=None)
def test_label_counts_changed_pixels(changed: int, least: int, ignored: int) -> None:
    mask = np.zeros(64, np.uint8)
    mask[:changed] = 1
    mask[64 - ignored :] = 255
    assert image_label(mask.reshape(8, 8), least, ignore=255) == (changed >= least)


def test_published_rule_counts_any_value() -> None:
    assert image_label(np.array([[0, 1]])) == 1
    assert image_label(np.array([[0, 128]])) == 1
    assert image_label(np.zeros((4, 4))) == 0
    with pytest.raises(DataError, match="must be at least 1"):
        image_label(np.zeros((1, 1)), 0)


def test_labels_for() -> None:
    assert labels_for({"a": 1, "b": 0}, ["b"], "x") == {"b": 0}
    with pytest.raises(DataError, match="x: 1 of 2 pairs have no label, first 'c'"):
        labels_for({"a": 1}, ["a", "c"], "x")


@pytest.mark.golden
def test_published_lists(golden: Any) -> None:
    cases = golden.files("kdmsi/dataset_*.npz")
    assert cases
    for case in cases:
        with np.load(case, allow_pickle=False) as arrays:
            masks, lines = arrays["mask_uint8"], [str(line) for line in arrays["label_lines"]]
            names = list(parse_label_list("\n".join(lines)))
            labels = {n: image_label(mask) for n, mask in zip(names, masks, strict=True)}
            assert format_label_list(labels).splitlines() == lines
            assert list(labels.values()) == arrays["image_label"].tolist()
            assert list(parse_label_list("\n".join(lines)).values()) == list(labels.values())
