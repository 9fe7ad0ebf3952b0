"""Flow of a scene, and what remains different along it, from a network that predicts flow."""

from collections.abc import Callable, Iterator
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
    """A model whose network may predict flow as well; both fields lie on the t2 grid."""

    @property
    def tiling(self) -> Tiling:
        """How a scene is tiled for the model."""

    def flow(self, image: FloatArray) -> FloatArray | None:
        """(B,2,C,H,W) raw values -> (B,2,H,W) pixels, or None without flow."""

    def dissimilarity(self, image: FloatArray) -> FloatArray | None:
        """(B,2,C,H,W) raw values -> (B,1,H,W) in [0,1] along the flow, or None without flow."""


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
            f"expected a model with flow for --flow and --dissimilarity, found {model.name}; train "
            "one with method scene-pretrain or scene, and drop --msi and --tta"
        )


def scene_field(
    pair: ScenePair,
    field: Callable[[FloatArray], FloatArray | None],
    tiling: Tiling,
    tile_size: int,
) -> Iterator[tuple[Box, FloatArray]]:
    """A field of every tile, NaN where either date is not valid.

    Args:
        pair: two dates on one grid.
        field: ``flow`` or ``dissimilarity`` of a model that passed `check_flow`.
        tiling: of the model.
        tile_size: side of a tile; matches outside a tile cannot be found.

    Yields:
        The box of a tile and its field (K,h,w).

    Raises:
        ModelError: if the field is not finite where both dates have data.
    """
    for tile in scene_tiles(pair, tile_size, tiling):
        image, valid = pair.context(tile.read)
        whole = cast(FloatArray, field(image[None]))[0]
        check_numbers(whole, valid, "the network's flow")
        wanted = valid[tile.inner] & pair.inside(tile.write)
        inner = whole[:, tile.inner[0], tile.inner[1]]
        yield (tile.write, np.where(wanted, inner, np.float32(np.nan)))
