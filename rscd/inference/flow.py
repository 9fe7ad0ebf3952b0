"""Flow of a scene, tile by tile, from a network that gives it."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np

from rscd.errors import UsageError
from rscd.geo.scene import ScenePair
from rscd.geo.tiles import Box, plan_tiles
from rscd.inference.predictor import Model, Tiling
from rscd.types import FloatArray


@runtime_checkable
class FlowModel(Protocol):
    """A model whose network may give flow as well."""

    @property
    def tiling(self) -> Tiling:
        """How it takes a scene in pieces."""
        ...

    def flow(self, image: FloatArray) -> FloatArray | None:
        """(B,2,C,H,W) raw values -> (B,2,H,W) pixels on the t2 grid, or None: it has none."""
        ...


def scene_flow(pair: ScenePair, model: Model, tile_size: int) -> Iterator[tuple[Box, FloatArray]]:
    """Flow of every tile, NaN where either date is not valid.

    Args:
        pair: two dates on one grid.
        model: with a network that gives flow.
        tile_size: side of a tile; flow beyond a tile cannot be found.

    Yields:
        The box of a tile and its flow (2,h,w) in pixels.

    Raises:
        UsageError: for a model without flow.
    """
    tiles = plan_tiles(pair.shape_hw, tile_size, model.tiling.halo, model.tiling.multiple)
    for tile in tiles:
        image, valid = pair.read(tile.read)
        found = model.flow(image[None]) if isinstance(model, FlowModel) else None
        if found is None:
            raise UsageError(
                f"expected a model with flow for --flow, found {model.name}; train one with "
                "method scene-pretrain or scene"
            )
        flow = np.where(valid, found[0], np.float32(np.nan))
        yield tile.write, flow[:, tile.inner[0], tile.inner[1]]
