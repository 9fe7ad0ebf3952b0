"""Networks for Deepness, a plugin of QGIS that runs ONNX files on one raster.

The plugin cuts a raster of both dates (`rscd.export.stack`) into square tiles, divides the values
by 255, and takes what a network returns at or above a threshold as its class. Such a file has one
input ``stack`` (1,2C,H,W) of that, t1 first, which it scales back and normalises itself, and one
output ``change`` (1,1,H,W), the probability; H = W is the side of a tile. The keys of its metadata
are those of the plugin's documentation (``creators_add_metadata_to_model``) and its code, version
0.6.3.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rscd.base.errors import ModelError
from rscd.base.files import write_verified, writing
from rscd.base.types import CARD_KEY, Provenance
from rscd.geo.tiles import round_up
from rscd.inference.graphs import (
    OPSET,
    TOLERANCE,
    Graph,
    check_onnx,
    exporting,
    graph_of,
    onnx_file,
)
from rscd.inference.onnx_network import CHANGE

STACK = "stack"
"""Name of the input."""
FULL = 255.0
"""What the plugin divides by, whatever the type of the raster."""
LEAST_TILES = 3
"""Least side of a tile in halos: two are context."""


class Stacked(nn.Module):
    """A graph that is given both dates as one image of values from 0 to 1."""

    def __init__(self, graph: Graph, n_bands: int) -> None:
        """Take a graph, and the bands per date."""
        super().__init__()
        self.inner, self.n_bands = graph, n_bands  # `graph` is a name of torch.fx

    def forward(self, stack: Tensor) -> Tensor:
        """(1,2C,H,W) raw values / 255, t1 first -> (1,1,H,W) probability of change."""
        pair = (stack * FULL).reshape(-1, 2, self.n_bands, *stack.shape[2:])
        change: Tensor = self.inner(pair)[0]
        return change[:, None]


def tile_side(card: Provenance) -> int:
    """Side of a tile in pixels: the patch of the card, or more where it is hardly its context."""
    side = max(card["patch_size"], LEAST_TILES * card["halo"])
    return round_up(side, card["multiple"])


def overlap_percent(side: int, halo: int) -> int:
    """The least overlap of tiles with which every pixel has its context.

    The plugin leaves half of ``int(side * percent / 100 * 2) // 2`` pixels on each side of a tile
    to its neighbour.
    """
    return next(p for p in range(100) if int(side * p / 100 * 2) // 2 // 2 >= halo)


def metadata(card: Provenance, n_bands: int) -> dict[str, Any]:
    """What the plugin reads, by key; values are plain data.

    ``tile_size`` is the key that its code reads, ``tiles_size`` the one that its documentation
    names; mean 0 and standard deviation 1 leave the values as they are.
    """
    side = tile_side(card)
    size = {"resolution": round(100 * card["gsd_m"], 6)} if "gsd_m" in card else {}
    return {
        "model_type": "Segmentor",
        "class_names": {"0": "no change", "1": "change"},
        **size,
        "tile_size": side,
        "tiles_size": side,
        "tiles_overlap": overlap_percent(side, card["halo"]),
        "standardization_mean": [0.0] * (2 * n_bands),
        "standardization_std": [1.0] * (2 * n_bands),
        "seg_thresh": card["threshold"],
        "seg_small_segment": 0,
    }


def export_deepness(source: Path, target: Path, *, teacher: bool = False) -> Provenance:
    """Write the network of a weights file or checkpoint for the plugin.

    Args:
        source: see `rscd.inference.weights.read_card`.
        target: ends in ``.onnx``.
        teacher: the teacher in place of the network that predicts.

    Returns:
        What the plugin reads, see `metadata`.

    Raises:
        ModelError: the weights cannot be used, or this network cannot be exported.
        OutputError: it cannot be written.
    """
    check_onnx()
    card, graph, n_bands = graph_of(source, teacher=teacher)
    if card.get("whole_pictures"):
        raise ModelError(
            f"expected a network that looks at parts of a scene, found {card['network']}, which "
            "looks at whole pictures; the plugin gives it tiles"
        )
    about = metadata(card, n_bands)
    stacked = Stacked(graph, n_bands).eval()
    side = about["tile_size"]
    generator = torch.Generator().manual_seed(0)
    stack = torch.rand(1, 2 * n_bands, side, side, generator=generator)
    with exporting(card, target):
        with torch.no_grad():
            wanted = stacked(stack)
            program = torch.export.export(stacked, (stack,), strict=False)
        made: Any = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=[STACK], output_names=[CHANGE],
            verbose=False,
        )  # fmt: skip
        texts = {key: json.dumps(value) for key, value in about.items()}
        texts[CARD_KEY] = json.dumps(card, sort_keys=True)
        content, run = onnx_file(made.model_proto, texts)
        apart = float((run(stack)[0] - wanted).abs().max())
        if not apart <= TOLERANCE:
            raise ValueError(f"probabilities {apart:.1g} apart")
    with writing(target):
        write_verified(target, content)
    return about
