from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from rscd.base.errors import UsageError
from rscd.segmenters.instances import Instance, components, paint
from rscd.segmenters.prompts import PromptSet, parse_prompts
from rscd.segmenters.segmenter import SegmenterInfo, SemanticPrediction, View
from rscd.segmenters.stitch import segment, windows

PROMPTS = parse_prompts("building", "ground")


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    tile=st.integers(1, 40),
    data=st.data(),
)
def test_cores_cover_every_pixel_once_and_windows_are_full(
    shape: tuple[int, int], tile: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, tile - 1))
    seen = np.zeros(shape, int)
    for one in windows(shape, tile, overlap):
        read, write = one.read, one.write
        assert read.shape_hw == (min(tile, shape[0]), min(tile, shape[1]))
        assert read.row >= 0
        assert read.row + read.height <= shape[0]
        assert read.col >= 0
        assert read.col + read.width <= shape[1]
        assert all(0 <= part.start <= part.stop for part in one.inner)
        assert one.inner[0].stop <= read.height
        assert one.inner[1].stop <= read.width
        seen[write.row : write.row + write.height, write.col : write.col + write.width] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize(("tile", "overlap"), [(8, 8), (8, -1), (0, 0)])
def test_an_overlap_beyond_the_tile_is_refused(tile: int, overlap: int) -> None:
    with pytest.raises(UsageError, match=r"expected (an overlap|a tile)"):
        windows((20, 20), tile, overlap)


class Oracle:
    """Tells the truth of its window: one class plane and its components."""

    def __init__(self, truth: NDArray[Any], tile: int | None, overlap: int, batch: int = 1) -> None:
        self.truth, self.batch = truth, batch
        self.info = SegmenterInfo("oracle", True, tile, overlap, images_per_call=batch)

    def predict(self, views: Sequence[View], prompts: PromptSet) -> list[SemanticPrediction]:
        assert len(views) <= self.batch
        return [self._one(view) for view in views]

    def _one(self, view: View) -> SemanticPrediction:
        box = view.box
        part = self.truth
        if box is not None:
            part = part[box.row : box.row + box.height, box.col : box.col + box.width]
        assert part.shape == view.rgb.shape[:2]
        prob = np.stack([part, ~part]).astype(np.float32)
        return SemanticPrediction(prob, PROMPTS.classes, 1, components(part))

    def fingerprint(self) -> dict[str, Any]:
        return {}

    def seconds_per_view(self, prompts: PromptSet) -> None:
        return None


def town(shape: tuple[int, int], seed: int, n: int = 12) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    truth = np.zeros(shape, bool)
    for _ in range(n):
        h, w = rng.integers(3, 26, 2)
        r, c = rng.integers(0, shape[0] - 3), rng.integers(0, shape[1] - 3)
        room = truth[max(r - 2, 0) : r + h + 2, max(c - 2, 0) : c + w + 2]
        if not room.any():
            truth[r : r + h, c : c + w] = True
    return truth


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), tile=st.integers(20, 60), batch=st.integers(1, 3))
def test_pieces_become_the_truth_again(seed: int, tile: int, batch: int) -> None:
    truth = town((70, 90), seed)
    view = View(np.zeros((*truth.shape, 3), np.uint8))
    found = segment(Oracle(truth, tile, tile // 3, batch), view, PROMPTS)
    assert (found.prob[0] == truth).all()
    assert (found.prob[1] == ~truth).all()
    assert found.instances is not None
    assert len(found.instances) == ndimage.label(truth, np.ones((3, 3)))[1]
    assert (paint(found.instances, [True] * len(found.instances), truth.shape) == truth).all()


def test_objects_that_disagree_in_the_zone_stay_apart() -> None:
    class Two(Oracle):
        def _one(self, view: View) -> SemanticPrediction:
            prob = np.zeros((2, *view.rgb.shape[:2]), np.float32)
            assert view.box is not None
            side = 0 if view.box.col == 0 else 6
            mask = np.ones((4, 4), bool)  # right and left end of the shared columns 12 to 20
            where = (14, 2, 18, 6) if side == 0 else (0, 12, 4, 16)
            return SemanticPrediction(prob, PROMPTS.classes, 1, [Instance(0, 0.9, where, mask)])

    view = View(np.zeros((20, 32, 3), np.uint8))
    found = segment(Two(np.zeros((20, 32), bool), 20, 8), view, PROMPTS)
    assert found.instances is not None
    assert len(found.instances) == 2


def test_a_backend_that_breaks_its_contract_is_found_out() -> None:
    class Wrong(Oracle):
        def _one(self, view: View) -> SemanticPrediction:
            prob = np.full((2, *view.rgb.shape[:2]), 2, np.float32)
            return SemanticPrediction(prob, PROMPTS.classes, 1)

    with pytest.raises(ValueError, match="expected scores from 0 to 1"):
        segment(
            Wrong(np.zeros((5, 5), bool), None, 0), View(np.zeros((5, 5, 3), np.uint8)), PROMPTS
        )
