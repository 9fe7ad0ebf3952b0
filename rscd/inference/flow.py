"""Flow of a scene, tile by tile, from a network that predicts flow."""

from collections.abc import Iterator
from typing import Protocol, cast, runtime_checkable

import numpy as np

from rscd.base.errors import UsageError
from rscd.base.types import FloatArray
from rscd.geo.changemap import check_numbers
from rscd.geo.scene import ScenePair
from rscd.geo.tiles import Box, round_up
from rscd.inference.predictor import Model, Tiling
from rscd.inference.tiled import scene_tiles


@runtime_checkable
class FlowModel(Protocol):
    """A model whose network may predict flow as well."""

    @property
    def tiling(self) -> Tiling:
        """How a scene is tiled for the model."""

    def flow(self, image: FloatArray) -> FloatArray | None:
        """(B,2,C,H,W) raw values -> (B,2,H,W) pixels on the t2 grid, or None without flow."""


PROBE_PX = 64
"""Least side of the image used to test whether a network predicts flow."""


def check_flow(model: Model, n_bands: int) -> None:
    """Check that a model predicts flow, by running it on a small black pair before the real work.

    Args:
        model: any.
        n_bands: of the scene.

    Raises:
        UsageError: for a model without flow.
    """
    side = round_up(PROBE_PX, model.tiling.multiple)
    black = np.zeros((1, 2, n_bands, side, side), np.float32)
    if not isinstance(model, FlowModel) or model.flow(black) is None:
        raise UsageError(
            f"expected a model with flow for --flow, found {model.name}; train one with method "
            "scene-pretrain or scene, and drop --msi and --tta"
        )


def scene_flow(
    pair: ScenePair, model: FlowModel, tile_size: int
) -> Iterator[tuple[Box, FloatArray]]:
    """Flow of every tile, NaN where either date is not valid.

    Args:
        pair: two dates on one grid.
        model: that passed `check_flow`.
        tile_size: side of a tile; matches outside a tile cannot be found.

    Yields:
        The box of a tile and its flow (2,h,w) in pixels.

    Raises:
        ModelError: if the flow is not finite where both dates have data.
    """
    for tile in scene_tiles(pair, tile_size, model.tiling):
        image, valid = pair.context(tile.read)
        whole = cast(FloatArray, model.flow(image[None]))[0]
        check_numbers(whole, valid, "the network's flow")
        wanted = valid[tile.inner] & pair.inside(tile.write)
        inner = whole[:, tile.inner[0], tile.inner[1]]
        yield (tile.write, np.where(wanted, inner, np.float32(np.nan)))
