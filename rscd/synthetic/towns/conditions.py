"""Nuisances: differences between two images of one place without any construction."""

import math
from dataclasses import dataclass, fields, replace

import numpy as np

from rscd.base.arguments import check_range
from rscd.base.errors import UsageError


@dataclass(frozen=True)
class Conditions:
    """Season, light and sensor of one date."""

    greenness: float = 0.7
    """0 dormant or dry vegetation, 1 lush."""
    leaf_off: float = 0.0
    """Transparent fraction of each broadleaf crown."""
    sun_azimuth_deg: float = 150.0
    """Clockwise from north; north is up."""
    sun_elevation_deg: float = 48.0
    ambient: float = 0.24
    """Sky light relative to all light on open level ground, which sets the brightness of
    shadows."""
    cloud_shadow: float = 0.0
    """Light lost inside cloud shadows, 0 to 1; 0 = no clouds."""
    haze: float = 0.0
    """Fraction of the light replaced by air light."""
    exposure: float = 1.0
    """Factor on linear light."""
    gain: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    """Colour cast: factors on red, green, blue, near infrared."""
    contrast: float = 1.0
    saturation: float = 1.0
    noise: float = 0.0
    """Standard deviation of the sensor noise in eight-bit grey levels."""
    blur_px: float = 0.0
    """Sigma of the point spread function, image pixels."""
    sharpen: float = 0.0
    """Weight of unsharp masking, as applied by image providers."""
    jpeg_quality: int = 0
    """1 to 100 compresses the image with JPEG; 0 does not. Only three-band 8-bit images."""
    off_nadir_deg: float = 0.0
    """Tall objects lean: displacement = height x tan(angle)."""
    view_azimuth_deg: float = 0.0
    """Direction in which tall objects lean, clockwise from north."""

    def __post_init__(self) -> None:
        check_range(self, ["sun_elevation_deg"], 5, 90)
        check_range(self, ["off_nadir_deg"], 0, 45)
        check_range(self, ["jpeg_quality"], 0, 100)
        check_range(self, ("greenness", "leaf_off", "ambient", "cloud_shadow", "haze"), 0, 1)
        check_range(self, ("noise", "blur_px"))

    @property
    def lean(self) -> tuple[float, float]:
        """Displacement per metre of height: x to the right, y downwards."""
        reach = math.tan(math.radians(self.off_nadir_deg))
        azimuth = math.radians(self.view_azimuth_deg)
        return reach * math.sin(azimuth), -reach * math.cos(azimuth)

    @staticmethod
    def draw(rng: np.random.Generator, strength: float = 1.0) -> "Conditions":
        """Random conditions; ``strength`` 0 to 1 scales their variation."""

        def spread(low: float, high: float, centre: float) -> float:
            return centre + strength * (float(rng.uniform(low, high)) - centre)

        winter = bool(rng.random() < 0.35)
        bare = float(rng.uniform(0.2, 0.65)) if winter and rng.random() < 0.7 else 0.0
        cast = np.exp(strength * rng.normal(0, (0.05, 0.035, 0.07, 0.08)))
        return Conditions(
            greenness=spread(0.0, 0.5, 0.5) if winter else spread(0.35, 1.0, 0.7),
            leaf_off=strength * bare,
            sun_azimuth_deg=spread(95, 250, 165),
            sun_elevation_deg=spread(22, 50, 42) if winter else spread(32, 68, 48),
            ambient=spread(0.12, 0.42, 0.24),
            cloud_shadow=strength * float(rng.uniform(0.1, 0.6)) if rng.random() < 0.08 else 0.0,
            haze=strength * float(rng.beta(1, 4)) * 0.4,
            exposure=math.exp(strength * float(rng.normal(0, 0.28))),
            gain=(float(cast[0]), float(cast[1]), float(cast[2]), float(cast[3])),
            contrast=math.exp(strength * float(rng.normal(0.2, 0.17))),
            saturation=math.exp(strength * float(rng.normal(0.04, 0.22))),
            noise=strength * float(rng.gamma(2.0, 1.2)),
            blur_px=spread(0.15, 0.9, 0.45),
            sharpen=strength * float(rng.uniform(0, 1.8)) if rng.random() < 0.65 else 0.0,
            jpeg_quality=int(rng.integers(60, 96)) if rng.random() < 0.3 * strength else 0,
            off_nadir_deg=strength * min(abs(float(rng.normal(0, 7))), 25.0),
            view_azimuth_deg=float(rng.uniform(0, 360)),
        )  # fmt: skip


@dataclass(frozen=True)
class Nuisance:
    """All differences between two images other than building change.

    The truth never moves: masks, land cover and polygons stay on the plan's grid, which is t1's.
    """

    t1: Conditions = Conditions()
    t2: Conditions = Conditions()
    shift_px: tuple[float, float] = (0.0, 0.0)
    """Displacement (x,y) of t2's content relative to t1's, image pixels."""
    warp_px: float = 0.0
    """Largest displacement of a smooth random local warp of t2, image pixels."""
    warp_wavelength_px: float = 90.0
    cars_move: float = 0.0
    """Fraction of parking spaces redrawn at t2."""
    crop_change: float = 0.0
    """Fraction of fields with another crop at t2."""
    ground_change: float = 0.0
    """Fraction of open ground cleared, graded or overgrown at t2 without any building."""
    tree_change: float = 0.0
    """Fraction of trees felled or planted between the dates."""

    def __post_init__(self) -> None:
        check_range(self, ("cars_move", "crop_change", "ground_change", "tree_change"), 0, 1)
        check_range(self, ["warp_px"])
        check_range(self, ["warp_wavelength_px"], 8)

    @staticmethod
    def off() -> "Nuisance":
        """No differences at all: unchanged ground has equal pixels at both dates."""
        return Nuisance()

    @staticmethod
    def moderate() -> "Nuisance":
        """The sample scene: the same season a few years later, other light, a sub-pixel shift."""
        return Nuisance(
            t1=Conditions(
                greenness=0.55, sun_azimuth_deg=148, sun_elevation_deg=50, noise=2.0, blur_px=0.5,
                exposure=0.95, gain=(1.02, 1.0, 0.97, 1.0), contrast=1.15, sharpen=0.5,
            ),
            t2=Conditions(
                greenness=0.72, sun_azimuth_deg=163, sun_elevation_deg=45, noise=2.2, blur_px=0.55,
                haze=0.03, exposure=1.02, gain=(0.99, 1.0, 1.03, 1.0), contrast=1.12,
                sharpen=0.5,
            ),
            shift_px=(0.35, -0.25), cars_move=0.7, crop_change=0.3, ground_change=0.04,
            tree_change=0.04,
        )  # fmt: skip

    @staticmethod
    def draw(rng: np.random.Generator, strength: float = 1.0) -> "Nuisance":
        """A random pair of conditions.

        Args:
            rng: random generator.
            strength: from 0, almost none, to 1, the full variation between real archives.
        """
        if not 0 <= strength <= 1:
            raise UsageError(f"expected a strength from 0 to 1, found {strength}")
        shift = strength * rng.normal(0, 0.9, 2)
        first, second = Conditions.draw(rng, strength), Conditions.draw(rng, strength)
        if rng.random() < 0.25:  # same season and sun: only the sensor differs
            second = replace(second, **{f.name: getattr(first, f.name) for f in fields(first)[:4]})
        return Nuisance(
            t1=first,
            t2=second,
            shift_px=(float(shift[0]), float(shift[1])),
            warp_px=strength * float(rng.gamma(1.2, 0.7)) if rng.random() < 0.5 else 0.0,
            warp_wavelength_px=float(rng.uniform(60, 200)),
            cars_move=strength * float(rng.uniform(0.5, 1.0)),
            crop_change=strength * float(rng.uniform(0, 1)),
            ground_change=strength * float(rng.beta(1, 5)),
            tree_change=strength * float(rng.beta(1, 7)),
        )
