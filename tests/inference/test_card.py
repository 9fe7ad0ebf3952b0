"""Model cards come from strangers: what cannot be used is one clear line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rscd.base.errors import ModelError
from rscd.cli import main
from rscd.inference.card import MOST_ARGUMENT, MOST_HALO, MOST_PIXELS, checked_card
from rscd.inference.network import load_network, save_weights
from rscd.inference.shipped import shipped_card
from rscd.inference.weights import read_tensors, write_weights
from rscd.models.networks import build_network

SMALL = {"widths": [4, 8], "depths": [1, 1], "decoder_width": 4}
SIZES = {"halo": 16, "multiple": 4, "patch_size": 64, "threshold": 0.5}
HERE = Path("m.safetensors")


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    return shipped_card()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, build_network("tiny", SMALL), "tiny", SMALL, SIZES)
    return path


def test_the_card_that_ships_is_kept_as_it_is(card: dict[str, Any]) -> None:
    assert checked_card(card, HERE) == card


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("halo", (-1, 1.5, MOST_HALO + 1, "16", True, None)),
        ("multiple", (0, 2**31, "x")),
        ("patch_size", (0, MOST_PIXELS + 1, [])),
        ("threshold", (-0.1, 1.1, float("nan"), 1e308, "auto")),
        ("receptive_radius", (-1, "x", 1e308)),
        ("bytes_per_pixel", (0, 2**40)),
        ("network", (None, 3, [])),
        ("network_args", (None, [], {"n_bands": 0}, {"n_bands": "3"}, {"a": [[10**9]]})),
        ("min_area_m2", (-1, "x", float("inf"))),
        ("min_score", (2, None)),
        ("kind_margin", (None, "wide", -0.1, 2)),
        ("gsd_m", (0, -1, None, 1e308)),
        ("gsd_range_m", ([], [1], None, "x", [0.2, "1"])),
        ("name", ("", 5, "a" * 1000)),
        ("whole_pictures", ("yes", 1)),
    ],
)
def test_the_wrong_field_is_named_with_its_value(
    card: dict[str, Any], field: str, values: tuple[Any, ...]
) -> None:
    for value in values:
        with pytest.raises(ModelError, match=rf"m\.safetensors, found .*{field}") as caught:
            checked_card(card | {field: value}, HERE)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["network", "network_args", "halo", "threshold"])
def test_a_missing_field_is_named(card: dict[str, Any], field: str) -> None:
    with pytest.raises(ModelError, match=f"found none of {field}"):
        checked_card({name: value for name, value in card.items() if name != field}, HERE)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@pytest.mark.slow
@given(field=st.sampled_from(sorted(shipped_card())), value=anything)
def test_any_value_is_taken_or_refused(card: dict[str, Any], field: str, value: Any) -> None:
    changed = card | {field: value}
    try:
        found = checked_card(changed, HERE)
    except ModelError:
        return
    assert json.dumps(found) == json.dumps(json.loads(json.dumps(changed)))


@pytest.mark.parametrize(
    "args",
    [
        {"widths": 5},
        {"widths": [4, "x"]},
        {"widths": [4, 8], "depths": [1]},
        {"widths": [MOST_ARGUMENT, MOST_ARGUMENT], "depths": [1, 1]},
        {"n_bands": 9},
        {"mean": "red"},
        {"nonesuch": 1},
        {"symmetric": "x", "decoder_width": -1},
    ],
)
def test_arguments_that_no_network_has_are_refused_and_take_no_memory(
    tmp_path: Path, weights: Path, args: dict[str, Any]
) -> None:
    path = tmp_path / "m.safetensors"
    write_weights(path, read_tensors(weights), SIZES | {"network": "tiny", "network_args": args})
    with pytest.raises(ModelError, match=r"m\.safetensors, found") as caught:
        load_network(path, "cpu", 1)
    assert "\n" not in str(caught.value)


def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.safetensors"
    wrong = SIZES | {"network": "tiny", "network_args": SMALL, "halo": "wide"}
    write_weights(path, read_tensors(weights), wrong)
    assert main(["model", "show", str(path)]) == 1
    told = capsys.readouterr().err
    assert told.startswith("rscd: expected a model card in ")
    assert "found halo 'wide', which should be a valid integer" in told
