from collections import Counter
from typing import Any

import pytest
import torch

from rscd.base.errors import UsageError
from rscd.base.types import Batch
from rscd.methods.parts import photometric
from rscd.methods.parts.draws import view_generator
from rscd.methods.parts.photometric import STREET, STRONG, Photometric, photometric_view
from rscd.models.flow import pixel_grid


def smooth_batch(count: int = 2, bands: int = 3) -> Batch:
    x, y = pixel_grid((40, 40))
    values = [torch.sin(x / (5 + b)) * torch.cos(y / (6 + b)) * 100 + 128 for b in range(bands)]
    image = torch.stack(values).expand(count, 2, -1, -1, -1).clone()
    mask = torch.randint(0, 2, (count, 1, 40, 40), generator=view_generator(0))
    return Batch(image=image, mask=mask, flow=torch.ones(count, 2, 40, 40))


EVERYTHING = Photometric(
    p_jitter=1, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25, p_gray=0.3, p_level=1,
    level=0.2, p_shadow=1, p_flare=1, p_blur=1, p_noise=1, noise=0.05,
)  # fmt: skip


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("value_range", [(0.0, 1.0), (0.0, 255.0), (0.0, 10000.0), (-25.0, 5.0)])
def test_photometry_stays_in_range_and_leaves_the_rest_alone(
    bands: int, value_range: tuple[float, float]
) -> None:
    low, high = value_range
    batch = smooth_batch(2, bands)
    batch["image"] = low + (high - low) * batch["image"] / 255
    before = {key: value.clone() for key, value in batch.items()}  # type: ignore[attr-defined]
    view = photometric_view(batch, EVERYTHING, view_generator(1), value_range=value_range)
    slack = 1e-4 * (high - low)
    assert low - slack <= view["image"].min() < view["image"].max() <= high + slack
    assert view["image"].shape == before["image"].shape
    for key, value in before.items():
        assert torch.equal(batch[key], value)  # type: ignore[literal-required]
        assert key == "image" or view[key] is batch[key]  # type: ignore[literal-required]


@pytest.mark.parametrize(("scale", "said"), [(1.0, False), (30.0, True), (-1.0, True)])
def test_values_beyond_the_value_range_are_said_once(
    scale: float, said: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photometric, "_looked", Counter())
    batch = smooth_batch()
    batch["image"] *= scale
    batch["image"][..., :30, :] = 0  # no data
    listed: Any = [0.0, 255.0]  # as from YAML
    for value_range in (listed, (0.0, 255.0)):
        photometric_view(batch, STRONG, view_generator(0), value_range=value_range)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == said
    assert all("expected image values in value_range [0.0, 255.0], found" in text for text in texts)


def test_photometry_is_equivariant_to_the_value_range() -> None:
    batch = smooth_batch()
    scaled = Batch(image=batch["image"] * 40 + 700)
    first = photometric_view(batch, EVERYTHING, view_generator(2), value_range=(0, 255))
    second = photometric_view(scaled, EVERYTHING, view_generator(2), value_range=(700, 10900))
    torch.testing.assert_close(first["image"] * 40 + 700, second["image"], atol=1.0, rtol=1e-3)


def test_dates_get_their_own_draw() -> None:
    image = smooth_batch(4)["image"][:, :1].expand(-1, 2, -1, -1, -1)
    batch = Batch(image=image)
    own = photometric_view(batch, EVERYTHING, view_generator(0), value_range=(0, 255))["image"]
    assert not torch.allclose(own[:, 0], own[:, 1])


def test_nothing_chosen_is_the_identity_even_beyond_the_range() -> None:
    batch = smooth_batch()
    batch["image"] = batch["image"] * 2
    view = photometric_view(batch, Photometric(), view_generator(0), value_range=(0, 255))
    torch.testing.assert_close(view["image"], batch["image"])


def test_colour_operations_skip_images_that_are_not_rgb() -> None:
    colour = Photometric(p_jitter=1, saturation=0.9, hue=0.5, p_gray=1)
    for bands, changes in [(3, True), (1, False), (4, False)]:
        batch = smooth_batch(2, bands)
        view = photometric_view(batch, colour, view_generator(0), value_range=(0, 255))
        same = torch.allclose(view["image"], batch["image"], atol=1e-3)
        assert same != changes


def test_brightness_and_contrast_have_the_published_meaning() -> None:
    batch = Batch(image=torch.full((64, 2, 4, 8, 8), 100.0))
    brightness = Photometric(p_jitter=1, brightness=0.5)
    view = photometric_view(batch, brightness, view_generator(0), value_range=(0, 255))["image"]
    factors = view[..., 0, 0, 0] / 100
    assert 0.5 <= factors.min() < 0.6
    assert 1.4 < factors.max() <= 1.5
    contrast = Photometric(p_jitter=1, contrast=0.5)
    flat = photometric_view(batch, contrast, view_generator(0), value_range=(0, 255))["image"]
    torch.testing.assert_close(flat, batch["image"])


def test_probabilities_of_the_presets() -> None:
    batch = Batch(image=200 * torch.rand(300, 2, 3, 8, 8, generator=view_generator(1)))
    for recipe, chance in [
        (STRONG, 1 - 0.2 * 0.5),
        (STREET, 1 - 0.5 * 0.8 * 0.5 * 0.5 * 0.75),
        (Photometric(p_shadow=0.5), 0.5),
        (Photometric(p_gray=0.2), 0.2),
    ]:
        view = photometric_view(batch, recipe, view_generator(2), value_range=(0, 255))
        touched = (view["image"] - batch["image"]).abs().flatten(2).amax(2) > 1e-2
        assert abs(touched.float().mean() - chance) < 0.06


def test_an_empty_value_range_is_refused() -> None:
    with pytest.raises(UsageError, match="black < white"):
        photometric_view(smooth_batch(), STRONG, view_generator(0), value_range=(1, 1))


def test_views_are_the_same_for_the_same_keys_only() -> None:
    batch = smooth_batch()

    def view(*keys: int) -> torch.Tensor:
        generator = view_generator(*keys)
        return photometric_view(batch, EVERYTHING, generator, value_range=(0, 255))["image"]

    assert torch.equal(view(7, 3, 0), view(7, 3, 0))
    assert not torch.equal(view(7, 3, 0), view(7, 3, 1))
    assert not torch.equal(view(7, 3, 0), view(8, 3, 0))
