import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rscd.base.errors import DataError, UsageError
from rscd.base.types import DateName
from rscd.data.images import write_picture
from rscd.segmenters.fake import FakeSegmenter, Faults
from rscd.segmenters.instances import paint
from rscd.segmenters.prompts import PromptSet, check_lengths, parse_prompts
from rscd.segmenters.rgb import to_rgb8
from rscd.segmenters.segmenter import SEGMENTERS, SemanticPrediction, View, load_segmenter

PROMPTS = parse_prompts("house, building", "road=road|street, tree")


class TestPrompts:
    def test_order_and_phrases(self) -> None:
        assert PROMPTS.classes == ("house", "building", "road", "tree")
        assert PROMPTS.n_foreground == 2
        assert PROMPTS.phrases == (
            (0, "house"),
            (1, "building"),
            (2, "road"),
            (2, "street"),
            (3, "tree"),
        )

    @pytest.mark.parametrize(
        ("foreground", "background", "message"),
        [
            ("", "tree", "found an empty one"),
            ("house,", "tree", "found an empty one"),
            ("house", "tree=|wood", "found an empty one"),
            ("house", "tree,House", "found house repeated"),
            ("house", "background", "which no model recognises"),
        ],
    )
    def test_bad_prompts_are_refused(self, foreground: str, background: str, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            parse_prompts(foreground, background)

    def test_a_phrase_too_long_is_named(self) -> None:
        with pytest.raises(UsageError, match="at most 32 tokens, found 62 in 'street'"):
            check_lengths(PROMPTS, [4, 4, 4, 62, 4], 32)


class TestOptions:
    def test_unknown_backend(self) -> None:
        with pytest.raises(UsageError, match=r"among sam3, clipseg, .*, found 'sam4'"):
            load_segmenter("sam4")

    def test_unknown_option(self) -> None:
        with pytest.raises(
            UsageError, match=r"precomputed .*: expected folder, missing, found dir"
        ):
            load_segmenter("precomputed", {"dir": "x"})

    def test_missing_option(self) -> None:
        with pytest.raises(
            UsageError,
            match=r"options of precomputed \(--segmenter-option\): expected folder, found none",
        ):
            load_segmenter("precomputed")

    def test_text_is_read_as_the_type_of_the_field(self, tmp_path: Path) -> None:
        for date in ("t1", "t2"):
            (tmp_path / date).mkdir()
        fake = load_segmenter("fake", {"folder": tmp_path, "missed": "0.25", "seed": "7"})
        assert isinstance(fake, FakeSegmenter)
        assert fake.faults == Faults(missed=0.25, seed=7)
        with pytest.raises(UsageError, match=r"fake .*number.* for missed, found 'many'"):
            load_segmenter("fake", {"folder": str(tmp_path), "missed": "many"})

    @pytest.mark.slow
    def test_no_backend_needs_torch_to_be_named(self) -> None:
        modules = [backend.module for backend in SEGMENTERS.values()]
        code = (
            "import sys, rscd.segmenters.segmenter, rscd.labels.from_segmenter\n"
            "from importlib import import_module\n"
            f"for module in {modules!r}:\n"
            "    import_module(module)\n"
            "    heavy = {'torch', 'transformers'} & set(sys.modules)\n"
            "    print(*(f'{name} by {module}' for name in heavy))"
        )
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
        assert done.stdout.split() == []


class TestRgb:
    def test_bytes_stay(self) -> None:
        pixels = np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3)
        rgb, limits = to_rgb8(pixels)
        assert limits is None
        assert (rgb == np.moveaxis(pixels[:3], 0, 2)).all()

    def test_grey_becomes_three(self) -> None:
        rgb, _ = to_rgb8(np.full((1, 2, 2), 9, np.uint8))
        assert rgb.shape == (2, 2, 3)
        assert (rgb == 9).all()

    def test_others_are_stretched_by_the_valid_pixels(self) -> None:
        pixels = np.linspace(100, 3000, 3 * 40 * 40).reshape(3, 40, 40).astype(np.uint16)
        valid = np.ones((40, 40), bool)
        valid[0] = False
        pixels[:, 0] = 65535
        rgb, limits = to_rgb8(pixels, valid)
        assert (rgb[0] == 0).all()
        assert limits is not None
        assert all(high <= 3000 for _, high in limits)
        assert rgb[1].min() == 0
        assert rgb[-1].max() == 255

    def test_two_bands_are_refused(self) -> None:
        with pytest.raises(DataError, match="found 2 bands"):
            to_rgb8(np.zeros((2, 3, 3), np.uint8))


def truth_planes(view: View, prompts: PromptSet) -> NDArray[Any]:
    planes = np.zeros((4, *view.rgb.shape[:2]), np.float32)
    planes[0, 10:22, 10:22] = 1
    planes[1, 40:52, 30:50] = 1
    planes[1, 5:15, 45:60] = 1
    planes[2, :, 24:28] = 1
    planes[3] = 1 - planes[:3].max(axis=0)
    return planes


def look(faults: Faults, date: DateName = "t1", name: str = "a") -> SemanticPrediction:
    view = View(np.zeros((64, 64, 3), np.uint8), name, date)
    return FakeSegmenter(truth_planes, faults).predict([view], PROMPTS)[0]


class TestFake:
    def test_without_faults_it_tells_the_truth(self) -> None:
        found = look(Faults())
        truth = truth_planes(View(np.zeros((64, 64, 3), np.uint8)), PROMPTS) > 0
        assert ((found.prob >= 0.5) == truth).all()
        assert found.instances is not None
        assert len(found.instances) == 3
        covered = paint(found.instances, [True] * 3, (64, 64))
        assert (covered == truth[:2].any(axis=0)).all()

    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 1000), date=st.sampled_from(["t1", "t2"]))
    def test_the_same_call_gives_the_same_faults(self, seed: int, date: DateName) -> None:
        faults = Faults(0.3, 0.5, 1.0, 0.5, 0.8, 0.1, seed)
        one, other = look(faults, date), look(faults, date)
        assert (one.prob == other.prob).all()
        assert one.prob.dtype == np.float32
        assert one.prob.min() >= 0
        assert one.prob.max() <= 1
        assert one.instances is not None
        assert other.instances is not None
        assert [i.bbox for i in one.instances] == [i.bbox for i in other.instances]
        for instance in one.instances:
            x0, y0, x1, y1 = instance.bbox
            assert instance.mask.shape == (y1 - y0, x1 - x0)
            assert 0 <= x0 < x1 <= 64
            assert 0 <= y0 < y1 <= 64

    def test_missing_all_and_inventing(self) -> None:
        assert look(Faults(missed=1)).instances == []
        many = [len(look(Faults(invented=2, seed=s)).instances or ()) for s in range(20)]
        assert np.mean(many) == pytest.approx(9, abs=2)

    def test_only_t2_is_displaced(self) -> None:
        straight, moved = look(Faults(shift_px=3), "t1"), look(Faults(shift_px=3), "t2")
        assert (straight.prob == look(Faults(), "t1").prob).all()
        assert (moved.prob[:, 3:, 3:] == straight.prob[:, :-3, :-3]).all()
        assert moved.instances is not None
        assert moved.instances[0].mask.any()

    def test_faults_out_of_range(self) -> None:
        with pytest.raises(UsageError, match="expected missed from 0 to 1"):
            Faults(missed=2)
        with pytest.raises(UsageError, match="expected doubt of 0 or more"):
            Faults(doubt=-1)


class TestPrecomputed:
    @pytest.mark.parametrize(
        ("stored", "expected"),
        [
            ([0, 1, 1], [0, 1, 1]),
            ([0, 255, 255], [0, 1, 1]),
            ([0, 1, 255], [0, 1, 0]),  # 255 beside 1: no label, so no building
            ([0, 51, 255], [0, 0.2, 1]),
        ],
    )
    def test_masks_mean_what_labels_mean(
        self, tmp_path: Path, stored: list[int], expected: list[float]
    ) -> None:
        for date in ("t1", "t2"):
            (tmp_path / date / "house").mkdir(parents=True)
        write_picture(tmp_path / "t1" / "house" / "a.png", np.array([[stored]], np.uint8))
        segmenter = load_segmenter("precomputed", {"folder": str(tmp_path), "missing": "zero"})
        view = View(np.zeros((1, 3, 3), np.uint8), "a", "t1")
        prob = segmenter.predict([view], parse_prompts("house", "ground"))[0].prob
        np.testing.assert_allclose(prob[0, 0], expected, atol=1e-6)

    def test_255_has_one_meaning_in_a_folder(self, tmp_path: Path) -> None:
        for date in ("t1", "t2"):
            (tmp_path / date / "house").mkdir(parents=True)
        for name, stored in (("a", [0, 1, 255]), ("b", [0, 255, 255])):
            write_picture(tmp_path / "t1" / "house" / f"{name}.png", np.array([[stored]], np.uint8))
        segmenter = load_segmenter("precomputed", {"folder": str(tmp_path), "missing": "zero"})
        views = [View(np.zeros((1, 3, 3), np.uint8), name, "t1") for name in ("a", "b")]
        with pytest.raises(DataError, match=r"house: expected one meaning of 255, found 0 and 255"):
            segmenter.predict(views, parse_prompts("house", "ground"))
