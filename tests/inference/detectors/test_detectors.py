"""The training-free detectors: statistics, thresholds, and independence of the tiling."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import linalg, ndimage

from rscd.base.errors import SceneError
from rscd.inference.detectors.cva import normalise
from rscd.inference.detectors.irmad import (
    canonical_differences,
    irmad,
    no_change_p_value,
    settled_variance,
    weighted_variance,
)
from rscd.inference.detectors.moments import weighted_moments
from rscd.inference.detectors.otsu import otsu_threshold
from rscd.inference.detectors.pca_kmeans import PcaKmeans, PcaKmeansPredictor, separate, two_means
from rscd.inference.detectors.pointwise import PointwisePredictor
from rscd.inference.detectors.registry import DEFAULT_DETECTOR, DETECTORS
from rscd.inference.detectors.sampling import sample_pixels
from rscd.inference.predictor import Block

NAMES = sorted(DETECTORS)
every_detector = pytest.mark.parametrize("name", NAMES)


def blocks_of(
    image: NDArray[Any], valid: NDArray[Any] | None = None, halo: int = 0, size: int = 512
) -> Iterator[Block]:
    """The fixed lattice over an array: halo reflected at the scene's edges and invalid there."""
    height, width = image.shape[2:]
    valid = np.ones((height, width), bool) if valid is None else valid
    wide = np.pad(image, ((0, 0), (0, 0), (halo, halo), (halo, halo)), "symmetric")
    wide_valid = np.pad(valid, halo)
    corners = [(top, left) for top in range(0, height, size) for left in range(0, width, size)]
    for index, (top, left) in enumerate(corners):
        rows = slice(top, min(top + size, height) + 2 * halo)
        cols = slice(left, min(left + size, width) + 2 * halo)
        yield Block(index, wide[:, :, rows, cols].astype(np.float32), wide_valid[rows, cols], halo)


def fit(
    name: str, image: NDArray[Any], valid: NDArray[Any] | None = None, **options: Any
) -> PointwisePredictor | PcaKmeansPredictor:
    model = DETECTORS[name](**options)
    blocks = blocks_of(image, valid, model.tiling.halo)
    return model.fit(blocks, image.shape[2] * image.shape[3])


def predict(
    predictor: PointwisePredictor | PcaKmeansPredictor,
    image: NDArray[Any],
    valid: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Whole scene at once, with its halo as the engine gives it: (H, W) probabilities."""
    halo = predictor.tiling.halo
    (block,) = blocks_of(image, valid, halo, size=max(image.shape))
    prob = predictor(block.image[None], block.valid[None])[0]
    return prob[halo : prob.shape[0] - halo, halo : prob.shape[1] - halo]


def detect(name: str, image: NDArray[Any], valid: NDArray[Any] | None = None) -> NDArray[Any]:
    return predict(fit(name, image, valid), image, valid)


def town(
    seed: int = 0, bands: int = 3, shape: tuple[int, int] = (60, 70), noise: float = 1.0
) -> NDArray[Any]:
    """Smooth ground seen at two dates with different gains; (2, C, H, W) float32."""
    rng = np.random.default_rng(seed)
    ground = ndimage.gaussian_filter(rng.normal(size=(bands, *shape)), (0, 3, 3))
    ground = 100 + 30 * ground / np.maximum(ground.std(axis=(1, 2), keepdims=True), 1e-9)
    image = np.stack([ground, 1.3 * ground + 20]) + noise * rng.normal(size=(2, bands, *shape))
    return image.astype(np.float32)


def changed(
    image: NDArray[Any], rows: slice = slice(20, 40), cols: slice = slice(10, 40)
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The same with a bright block at t2, and where it is."""
    out, truth = image.copy(), np.zeros(image.shape[2:], bool)
    truth[rows, cols] = True
    out[1, ::2, rows, cols] += 90
    out[1, 1::2, rows, cols] -= 70
    return out, truth


# --- Otsu -----------------------------------------------------------------------------------------


def between_class_variance(values: NDArray[Any], threshold: float) -> float:
    low, high = values[values < threshold], values[values >= threshold]
    return low.size * high.size * (low.mean() - high.mean()) ** 2 / values.size**2


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=30).filter(lambda v: len(set(v)) > 1))
@example([0, 0, 0, 1])
@example([0, 1, 2])
def test_otsu_is_the_best_of_all_splits(numbers: list[int]) -> None:
    values = np.array(numbers, float)
    distinct = np.unique(values)
    splits = (distinct[1:] + distinct[:-1]) / 2
    threshold = otsu_threshold(values)
    assert threshold in splits
    best = max(between_class_variance(values, split) for split in splits)
    assert between_class_variance(values, threshold) == pytest.approx(best)


def test_otsu_by_hand_and_without_contrast() -> None:
    assert otsu_threshold(np.array([1.0, 2, 2, 10, 11, 12])) == 6
    assert otsu_threshold(np.array([1e9, 1e9 + 1, 1e9 + 9, 1e9 + 10])) == 1e9 + 5
    assert otsu_threshold(np.full((3, 4), 2.5)) == 2.5


# --- sampling -------------------------------------------------------------------------------------


def numbered(height: int, width: int) -> NDArray[Any]:
    """An image whose t1 tells each pixel's place; t2 is its negative."""
    places = np.arange(height * width, dtype=np.float32).reshape(height, width)
    return np.stack([places, -places])[:, None]


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.integers(3, 12),
    budget=st.integers(64, 500),
    seed=st.integers(0, 9),
)
def test_sample_is_within_budget_valid_and_all_of_it_where_it_fits(
    shape: tuple[int, int], size: int, budget: int, seed: int
) -> None:
    valid = np.random.default_rng(seed).random(shape) < 0.7
    valid[0, 0] = True
    image = numbered(*shape)
    image[:, :, ~valid] = np.nan
    sample = sample_pixels(blocks_of(image, valid, size=size), budget=budget)[:, 0, 0]
    places = np.flatnonzero(valid)
    assert np.array_equal(sample[0], -sample[1])
    assert np.unique(sample[0]).size == sample.shape[1] <= max(1, budget // 2)
    assert set(sample[0]) <= set(places)
    if 2 * places.size <= budget:
        assert set(sample[0]) == set(places)


def test_sample_is_uniform_even_where_few_pixels_are_valid() -> None:
    valid = np.zeros((400, 400), bool)
    valid[:, :20] = True
    sample = sample_pixels(blocks_of(numbered(400, 400), valid, size=64), budget=4000)[0, 0, 0]
    assert 800 < sample.size <= 2000
    assert np.mean(sample) / 400 == pytest.approx(200, abs=10)


def test_neighbours_that_cannot_be_used_repeat_the_centre() -> None:
    image = numbered(2, 2)
    valid = np.array([[True, True], [True, False]])
    sample = sample_pixels(blocks_of(image, valid, halo=1), radius=1)
    assert sample.shape == (2, 1, 9, 3)
    assert sample[0, 0, :, 0].tolist() == [0, 0, 0, 0, 0, 1, 0, 2, 0]
    assert sample[0, 0, :, 1].tolist() == [1, 1, 1, 0, 1, 1, 2, 1, 1]


def test_moments_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    values, weight = rng.normal(size=(4, 70_000)), rng.random(70_000)
    mean, covariance = weighted_moments(values, weight)
    np.testing.assert_allclose(mean, np.average(values, axis=1, weights=weight))
    np.testing.assert_allclose(covariance, np.cov(values, aweights=weight, ddof=0), atol=1e-9)


# --- IR-MAD ---------------------------------------------------------------------------------------


def test_mad_by_hand() -> None:
    """Uncorrelated dates of one band: rho 0, variance 2, differences of the standardised values."""
    x, y = np.array([0.0, 0, 1, 1]), np.array([0.0, 10, 0, 10])
    mad = irmad(np.stack([x, y])[:, None], max_iterations=1)
    np.testing.assert_allclose(mad.rho, [0], atol=1e-12)
    np.testing.assert_allclose(mad.variance, [2])
    np.testing.assert_allclose(mad.chi_square(np.stack([x, y])[:, None])[[0, 3]], 0, atol=1e-12)
    np.testing.assert_allclose(np.abs(mad.variates(np.stack([x, y])[:, None])), [[0, 2, 2, 0]])


def test_canonical_correlations_solve_the_generalised_eigenproblem() -> None:
    """Nielsen 2007 eq. 3: Sxy Syy^-1 Syx a = rho^2 Sxx a."""
    rng = np.random.default_rng(1)
    moments = weighted_moments(rng.normal(size=(8, 8)) @ rng.normal(size=(8, 500)), np.ones(500))
    mad = canonical_differences(*moments)
    s = moments[1]
    through = s[:4, 4:] @ np.linalg.solve(s[4:, 4:], s[4:, :4])
    np.testing.assert_allclose(mad.rho**2, linalg.eigh(through, s[:4, :4])[0][::-1], rtol=1e-8)
    np.testing.assert_allclose(mad.a @ s[:4, :4] @ mad.a.T, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(mad.a @ s[:4, 4:] @ mad.b.T, np.diag(mad.rho), atol=1e-9)


def test_weights_shrink_variances_as_the_formula_says() -> None:
    assert weighted_variance(1, 1) == pytest.approx(1 - 2 / np.pi)
    assert weighted_variance(1, 2) == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    z, other = rng.chisquare(5, (2, 400_000))
    weighted = z[z < 0.3 * other]
    assert weighted.mean() / 5 == pytest.approx(weighted_variance(0.3, 5), rel=0.01)
    assert weighted_variance(settled_variance(6), 6) == pytest.approx(settled_variance(6))


def test_p_value_is_the_tail_of_chi_square() -> None:
    z = np.array([0.0, 1, 5, 1e4])
    np.testing.assert_allclose(no_change_p_value(z, 2), np.exp(-z / 2))


@pytest.mark.parametrize("bands", [1, 2, 3, 6])
def test_statistic_of_unchanged_noise_is_chi_square(bands: int) -> None:
    image = town(bands=bands, shape=(200, 200), noise=5)
    predictor = fit("irmad", image)
    assert isinstance(predictor, PointwisePredictor)
    p = no_change_p_value(predictor.distance(image.reshape(2, bands, -1)) ** 2, bands)
    assert np.mean(p) == pytest.approx(0.5, abs=0.05)
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.02)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), bands=st.integers(1, 5))
def test_irmad_does_not_see_linear_transforms_of_either_date(seed: int, bands: int) -> None:
    rng = np.random.default_rng(seed)
    image = changed(town(seed, bands))[0]
    mixes = np.eye(bands) + 0.3 * rng.normal(size=(2, bands, bands))
    other = np.einsum("tij,tjhw->tihw", mixes, image) + rng.normal(size=(2, bands, 1, 1)) * 50
    if max(np.linalg.cond(mix) for mix in mixes) < 50:
        found, expected = detect("irmad", other), detect("irmad", image)
        np.testing.assert_allclose(found, expected, atol=5e-3)


@every_detector
def test_swapping_the_dates_changes_nothing(name: str) -> None:
    image = changed(town())[0]
    np.testing.assert_allclose(detect(name, image), detect(name, image[::-1]), atol=1e-4)


def test_irmad_asks_for_more_pixels_than_bands() -> None:
    with pytest.raises(SceneError, match=r"more than 6 pixels usable .* found 6: .* model cva"):
        fit("irmad", town(shape=(2, 3)))


# --- CVA and PCA-k-means --------------------------------------------------------------------------


def test_normalisation_undoes_gain_and_offset_despite_change() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(50, 10, (1, 5000))
    y = 2.5 * x - 30 + rng.normal(0, 5, x.shape)
    y[:, :1000] += 200
    found = normalise(np.stack([x, y]).astype(np.float32))
    assert found.gain[0] / found.gain[1] == pytest.approx(2.5, rel=0.05)
    z = found.gain[1] * (y - found.centre[1, 0]) - found.gain[0] * (x - found.centre[0, 0])
    assert np.median(z[:, 1000:]) == pytest.approx(0, abs=0.4)
    assert z[:, 1000:].std() == pytest.approx(1, rel=0.35)
    assert np.median(z[:, :1000]) > 10


def test_two_means_ends_with_every_point_at_its_nearer_centre() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(0, 1, (2, 300)), rng.normal(4, 1, (2, 100))], axis=1)
    member = two_means(points, points[0] > 6)
    centres = np.stack([points[:, ~member].mean(1), points[:, member].mean(1)])
    distance = np.linalg.norm(points[None] - centres[:, :, None], axis=1)
    assert np.array_equal(member, distance[1] <= distance[0])
    assert 90 < member.sum() < 110
    assert not two_means(points, np.zeros(400, bool)).any()


def test_separation_is_the_nearer_centre_in_the_principal_axes() -> None:
    rng = np.random.default_rng(0)
    difference = np.abs(rng.normal(size=(2, 9, 500))).astype(np.float32)
    difference[:, :, :150] += 5
    kernel, bias = separate(difference, components=18)  # all axes: distances are those of features
    features = difference.reshape(18, -1)
    place = kernel @ features + bias
    centres = [features[:, place < 0.5].mean(1), features[:, place >= 0.5].mean(1)]
    assert [float(kernel @ c + bias) for c in centres] == pytest.approx([0, 1], abs=1e-5)
    nearer = [np.linalg.norm(features - c[:, None], axis=0) for c in centres]
    assert np.array_equal(place >= 0.5, nearer[1] <= nearer[0])


def test_even_neighbourhoods_are_refused() -> None:
    with pytest.raises(ValueError, match="expected an odd side"):
        PcaKmeans(side=4)


# --- all three ------------------------------------------------------------------------------------


@every_detector
@pytest.mark.parametrize("bands", [1, 3, 16])
@pytest.mark.parametrize("scale", [1.0, 200.0, 1e-4])
def test_planted_change_is_found_at_any_depth_and_number_of_bands(
    name: str, bands: int, scale: float
) -> None:
    image, truth = changed(town(bands=bands))
    change = detect(name, (image * scale).astype(np.float32)) >= 0.5
    overlap = (change & truth).sum() / (change | truth).sum()
    assert overlap > (0.8 if name == "pca-kmeans" else 0.95)  # the former rounds corners


@every_detector
@pytest.mark.parametrize("bands", [1, 2, 3, 7])
def test_unchanged_scene_does_not_come_out_half_changed(name: str, bands: int) -> None:
    assert np.mean(detect(name, town(bands=bands, shape=(150, 150), noise=4)) >= 0.5) < 0.01


@every_detector
def test_identical_dates_are_no_change_and_planted_change_among_them_is_found(name: str) -> None:
    image = np.round(town()[:1]).repeat(2, axis=0)
    assert detect(name, image).max() < 1e-4
    image, truth = changed(image)
    change = detect(name, image) >= 0.5
    assert change[~ndimage.binary_dilation(truth, iterations=2)].sum() == 0
    assert change[truth].mean() > 0.95


@every_detector
def test_bands_without_information_change_nothing(name: str) -> None:
    image, _ = changed(town())
    flat = np.full((2, 1, *image.shape[2:]), 7, np.float32)
    with_flat = np.concatenate([image, flat], axis=1)
    np.testing.assert_allclose(detect(name, with_flat), detect(name, image), atol=0.05)
    half_flat = with_flat.copy()
    half_flat[1, -1] += np.random.default_rng(9).normal(size=flat.shape[2:])  # at one date only
    doubled = np.concatenate([image, image[:, :1]], axis=1)
    for other in (half_flat, doubled):
        prob = detect(name, other)
        assert np.isfinite(prob).all()
        assert np.mean((prob >= 0.5) == (detect(name, image) >= 0.5)) > 0.99


@every_detector
@pytest.mark.parametrize("second", [3.0, "town"])
def test_constant_images_are_no_change(name: str, second: float | str) -> None:
    image = np.full((2, 3, 40, 50), 3, np.float32)
    if second == "town":
        image[1] = town(shape=(40, 50))[1]
    assert detect(name, image).max() == 0


@every_detector
def test_scene_without_usable_pixels_is_an_error(name: str) -> None:
    with pytest.raises(SceneError, match="usable at both dates, found none; check nodata"):
        fit(name, town(), np.zeros((60, 70), bool))


@every_detector
def test_few_pixels_give_numbers_or_a_clear_error(name: str) -> None:
    for shape in [(1, 1), (1, 2), (2, 3), (1, 9), (5, 1)]:
        image = town(shape=shape)
        if name == "irmad" and image[0, 0].size <= 6:
            with pytest.raises(SceneError, match="more than 6 pixels"):
                fit(name, image)
        else:
            assert np.isfinite(detect(name, image)).all()


@every_detector
@pytest.mark.parametrize("fill", [0, 1e30, np.nan, np.inf])
def test_invalid_pixels_influence_nothing(name: str, fill: float) -> None:
    image, _ = changed(town())
    valid = np.random.default_rng(5).random(image.shape[2:]) < 0.8
    image[:, :, ~valid] = 50
    expected = fit(name, image, valid)
    image[:, :, ~valid] = fill
    found = fit(name, image, valid)
    assert found == expected
    prob = predict(found, image, valid)
    assert not prob[~valid].any()
    image[:, :, ~valid] = 50
    assert np.array_equal(prob, predict(expected, image, valid))


@every_detector
def test_values_too_large_to_square_do_not_become_nan(name: str) -> None:
    image, _ = changed(town())
    predictor = fit(name, image)
    image[1, :, :5] = 3e38
    image[0, 1, 5:9] = np.inf
    prob = predict(predictor, image)
    assert np.isfinite(prob).all()
    assert prob[:3].min() > 0.5


@every_detector
def test_half_is_the_probability_at_the_automatic_threshold(name: str) -> None:
    image, _ = changed(town())
    predictor = fit(name, image)
    assert predictor.threshold == 0.5
    if name != "pca-kmeans":
        assert isinstance(predictor, PointwisePredictor)
        distance = predictor.distance(image.reshape(2, 3, -1))
        prob = predict(predictor, image).ravel()
        assert np.array_equal(prob >= 0.5, distance >= np.float32(predictor.tau))
        assert np.all(np.diff(prob[np.argsort(distance)]) >= 0)


@every_detector
def test_predictors_survive_pickling_and_are_plain_values(name: str) -> None:
    image, _ = changed(town())
    predictor = fit(name, image)
    again = pickle.loads(pickle.dumps(predictor))
    assert again == predictor == fit(name, image)
    assert np.array_equal(predict(again, image), predict(predictor, image))
    assert DETECTORS[name]().card()["name"] == DETECTORS[name]().name == name


@every_detector
def test_budget_beyond_the_scene_changes_nothing_and_a_small_one_little(name: str) -> None:
    image, _ = changed(town(shape=(90, 80)))
    numbers = 6 * 90 * 80 * (25 if name == "pca-kmeans" else 1)
    assert fit(name, image, budget=numbers) == fit(name, image, budget=10 * numbers)
    small = predict(fit(name, image, budget=numbers // 4), image) >= 0.5
    assert np.mean(small == (detect(name, image) >= 0.5)) > 0.97


FITTED: dict[str, Any] = {}


def fitted_scene(
    name: str,
) -> tuple[NDArray[Any], NDArray[Any], PointwisePredictor | PcaKmeansPredictor, NDArray[Any]]:
    """A scene with holes, its predictor, and the probabilities of the whole."""
    if name not in FITTED:
        image, _ = changed(town(shape=(37, 53)), slice(10, 25), slice(5, 30))
        valid = np.random.default_rng(2).random((37, 53)) < 0.9
        image[:, :, ~valid] = 0
        predictor = fit(name, image, valid)
        FITTED[name] = image, valid, predictor, predict(predictor, image, valid)
    return FITTED[name]


@pytest.mark.slow
@every_detector
@settings(max_examples=60, deadline=None)
@given(size=st.tuples(st.integers(1, 40), st.integers(1, 60)), batch=st.integers(1, 5))
@example(size=(1, 1), batch=4)
@example(size=(37, 1), batch=1)
@example(size=(1, 53), batch=1)
def test_tiles_equal_the_whole_scene_to_the_last_bit(
    name: str, size: tuple[int, int], batch: int
) -> None:
    image, valid, predictor, whole = fitted_scene(name)
    halo = predictor.tiling.halo
    (block,) = blocks_of(image, valid, halo)
    tiles = [
        (slice(top, min(top + size[0], 37)), slice(left, min(left + size[1], 53)))
        for top in range(0, 37, size[0])
        for left in range(0, 53, size[1])
    ]
    for shape in {(r.stop - r.start, c.stop - c.start) for r, c in tiles}:
        same = [(r, c) for r, c in tiles if (r.stop - r.start, c.stop - c.start) == shape]
        for start in range(0, len(same), batch):
            chunk = same[start : start + batch]
            reads = [
                (slice(r.start, r.stop + 2 * halo), slice(c.start, c.stop + 2 * halo))
                for r, c in chunk
            ]
            probs = predictor(
                np.stack([block.image[:, :, r, c] for r, c in reads]),
                np.stack([block.valid[r, c] for r, c in reads]),
            )
            for (r, c), prob in zip(chunk, probs, strict=True):
                inner = prob[halo : halo + shape[0], halo : halo + shape[1]]
                assert np.array_equal(inner, whole[r, c])


@every_detector
def test_halo_that_is_missing_counts_as_invalid(name: str) -> None:
    image, valid, predictor, whole = fitted_scene(name)
    assert np.array_equal(predictor(image[None], valid[None])[0], whole)


@every_detector
def test_strips_and_memory_layout_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image, valid, predictor, whole = fitted_scene(name)
    for module in ("pointwise", "pca_kmeans"):
        monkeypatch.setattr(f"rscd.inference.detectors.{module}.STRIP", 100)
    strange = np.moveaxis(np.ascontiguousarray(np.moveaxis(image, 1, -1)), -1, 1)
    assert np.array_equal(predictor(strange[None], valid[None])[0], whole)


# --- real scenes ----------------------------------------------------------------------------------


def kappa(change: NDArray[Any], truth: NDArray[Any]) -> float:
    agreement = np.mean(change == truth)
    chance = np.mean(change) * np.mean(truth) + np.mean(~change) * np.mean(~truth)
    return (agreement - chance) / (1 - chance)


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "least"), [("irmad", 0.93), ("cva", 0.89), ("pca-kmeans", 0.89)])
def test_agreement_with_the_reference_of_taizhou(name: str, least: float, realdata: Path) -> None:
    folder = realdata / "geotiff" / "landsat-taizhou"
    bands = []
    for file in ("A_2000TM.tif", "B_2003TM.tif"):
        with rasterio.open(folder / file) as source:
            bands.append(source.read())
    with rasterio.open(next(folder.glob("reference*.tif"))) as source:
        reference = source.read(1)
    change = detect(name, np.stack(bands).astype(np.float32)) >= 0.5
    labelled = reference != 127
    assert kappa(change[labelled], reference[labelled] == 255) >= least


def test_default_is_one_of_them() -> None:
    assert DEFAULT_DETECTOR in DETECTORS
