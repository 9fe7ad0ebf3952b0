"""Synthetic towns as an endless dataset: town `index` is the same on every machine.

Every parameter is plain data. A number fixes a property, a pair ``[low, high]`` draws it for each
town, and other properties are drawn to vary like real archives:

    towns:
      seed: 7
      gsd_m: [0.3, 0.8]
      nuisance: {strength: [0, 1], shift_px: [0, 4], off_nadir_deg: [0, 12], t2: {haze: 0.3}}
      style: {urban: [0.4, 1.0], roofs: tile}
"""

import functools
import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rscd.base.arguments import check_names
from rscd.base.border import border, reason, shown
from rscd.base.errors import DataError, UsageError
from rscd.base.files import digest_of, write_bytes
from rscd.base.types import ByteArray
from rscd.base.version import version
from rscd.data.labels import image_label
from rscd.data.plotted import Plotted
from rscd.synthetic.towns import Conditions, Nuisance, Town, TownStyle, plan_town, render_town

Sample = dict[str, Any]
Knob = float | Sequence[float]
"""A number, or (low, high) to draw from for each town."""

KEYS = frozenset({"image", "mask", "label", "valid", "land_cover", "changes", "buildings"})
DEFAULT_KEYS = frozenset({"image", "mask", "label"})
PAIR_KNOBS = (
    "warp_px", "warp_wavelength_px", "cars_move", "crop_change", "ground_change", "tree_change",
)  # fmt: skip
DATE_KNOBS = tuple(field.name for field in fields(Conditions) if field.name != "gain")
STYLE_KNOBS = tuple(field.name for field in fields(TownStyle))

Values = TypeVar("Values", Conditions, TownStyle)


class TownPairs(Plotted, Dataset[Sample]):
    """Town pairs with their truth, by index; any index from 0 is a town.

    A sample has ``keys`` and always ``name`` and ``gsd_m``:

    * ``image`` (2,C,H,W) float32, raw values, t1 first;
    * ``mask`` (1,H,W) int64: 1 where a building exists at exactly one date;
    * ``label`` () int64: 1 if the pair has change;
    * ``valid`` (1,H,W) bool, true everywhere;
    * ``land_cover`` (2,H,W) int64: values of ``rscd.synthetic.towns.LAND_COVER`` per date;
    * ``changes``: list of (kind, polygon), kind ``appeared`` or ``vanished``;
    * ``buildings``: (list of polygons at t1, list at t2).

    Polygons are in pixels of the image (x to the right, y downwards) and may extend beyond it.
    """

    def __init__(
        self,
        length: int = 1000,
        seed: int = 0,
        patch_size: int | tuple[int, int] = 256,
        *,
        gsd_m: Knob = 0.5,
        change_share: Knob = (0.1, 0.4),
        nuisance: Mapping[str, Any] | None = None,
        style: Mapping[str, Any] | None = None,
        bands: Literal[3, 4] = 3,
        dtype: Literal["uint8", "uint16"] = "uint8",
        keys: Sequence[str] | set[str] | frozenset[str] = DEFAULT_KEYS,
        min_change_pixels: int = 1,
        fresh: bool = True,
        cache: str | Path | None = None,
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        """Check the parameters; towns are generated on access.

        Args:
            length: number of towns per epoch.
            seed: another seed gives entirely different towns.
            patch_size: side or (height, width), pixels.
            gsd_m: ground sample distance, metres per pixel.
            change_share: expected fraction of building lots that differ, 0 to 1.
            nuisance: ``strength`` (0 to 1, scale of all variation), ``shift_px`` (length of t2's
                displacement, direction drawn), the other fields of ``Nuisance``, and those of
                ``Conditions``: for both dates, or for one under ``t1`` or ``t2``.
            style: fields of ``TownStyle``.
            bands: 3, or 4 with near infrared.
            dtype: ``uint8`` display values or ``uint16`` reflectance x 10000.
            keys: keys of a sample.
            min_change_pixels: changed pixels from which ``label`` is 1.
            fresh: whether a data module uses new towns in every epoch; otherwise the same
                ``length`` towns are repeated.
            cache: folder that stores rendered towns (about 10 bytes per pixel), for repeated towns.
                Rendering takes a few hundred milliseconds, reading a few.
            transforms: applied to each sample.

        Raises:
            DataError: for an unknown parameter or key, or values out of range.
        """
        if length < 1:
            raise DataError(f"expected a length of at least one town, found {length}")
        check_names(keys, sorted(KEYS), "keys of towns", DataError)
        self.length = length
        self.seed = seed
        self.shape_hw = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        self.gsd_m = gsd_m
        self.change_share = change_share
        self.nuisance = _checked(nuisance, "nuisance", ("strength", "shift_px", *PAIR_KNOBS))
        self.style = _checked(style, "style", STYLE_KNOBS)
        self.bands: Literal[3, 4] = bands
        self.dtype: Literal["uint8", "uint16"] = dtype
        self.keys = frozenset(keys)
        self.min_change_pixels = min_change_pixels
        self.endless = fresh
        """Whether indices beyond the length are valid."""
        self.transforms = transforms
        self.cache = None if cache is None else Path(cache) / self._recipe()
        self._try_knobs()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Town ``index``, from 0."""
        if index < 0:
            raise IndexError(f"towns are numbered from 0, found {index}")
        sample: Sample = {"name": f"town {self.seed}/{index}"}
        sample["gsd_m"] = self._gsd_m(index)
        town = functools.cache(lambda: self.plan(index))  # cached pixels need no plan
        if self.keys - {"changes", "buildings"}:
            sample |= self._tensors(index, town)
        if "changes" in self.keys:
            sample["changes"] = [(c.kind, _in_pixels(c.polygon, town())) for c in town().changes]
        if "buildings" in self.keys:
            sample["buildings"] = tuple(
                [_in_pixels(b.footprint, town()) for b in town().standing(date)] for date in (1, 2)
            )
        return self.transforms(sample) if self.transforms is not None else sample

    def plan(self, index: int) -> Town:
        """The plan of a town, without its images."""
        drawn = TownStyle.draw(self._rng(index, "style"))
        style = _with_knobs(drawn, self.style, self._named_rng(index, "style"))
        state = np.random.SeedSequence((self.seed, index)).generate_state(1, np.uint64)[0]
        share = _draw(self._rng(index, "change_share"), self.change_share)
        gsd_m = self._gsd_m(index)
        return plan_town(int(state >> 1), self.shape_hw, gsd_m, change_share=share, style=style)

    def conditions(self, index: int) -> Nuisance:
        """Everything that differs between the two dates of a town besides its buildings."""
        knobs = self.nuisance
        strength = _draw(self._rng(index, "strength"), knobs.get("strength", 1.0))
        base = Nuisance.draw(self._rng(index, "nuisance"), strength)
        dates = []
        for date, conditions in (("t1", base.t1), ("t2", base.t2)):
            own = {**{k: v for k, v in knobs.items() if k in DATE_KNOBS}, **knobs.get(date, {})}
            dates.append(_with_knobs(conditions, own, self._named_rng(index, date)))
        pair = {
            name: _draw(self._rng(index, name), knobs[name]) for name in PAIR_KNOBS if name in knobs
        }
        if "shift_px" in knobs:
            rng = self._rng(index, "shift_px")
            length, angle = _draw(rng, knobs["shift_px"]), rng.uniform(0, 2 * math.pi)
            pair["shift_px"] = (length * math.cos(angle), length * math.sin(angle))
        return replace(base, t1=dates[0], t2=dates[1], **pair)

    def _gsd_m(self, index: int) -> float:
        gsd_m: float = _draw(self._rng(index, "gsd_m"), self.gsd_m)
        return gsd_m

    def _rng(self, index: int, purpose: str) -> np.random.Generator:
        """A separate random generator per parameter, so that none affects the others."""
        return np.random.default_rng((self.seed, index, zlib.crc32(purpose.encode())))

    def _named_rng(self, index: int, prefix: str) -> Callable[[str], np.random.Generator]:
        return lambda name: self._rng(index, f"{prefix} {name}")

    def _try_knobs(self) -> None:
        try:
            for index in range(8):
                self.conditions(index)
            self.plan(0)
        except (UsageError, TypeError) as error:
            raise DataError(f"town parameters: {error}; correct the configuration") from error

    def _recipe(self) -> str:
        """Cache key of everything that determines the pixels."""
        recipe = [
            version(), self.seed, self.shape_hw, self.gsd_m, self.change_share, self.nuisance,
            self.style, self.bands, self.dtype,
        ]  # fmt: skip
        return f"towns-{digest_of(recipe)[:16]}"

    def _tensors(self, index: int, town: Callable[[], Town]) -> Sample:
        image, mask, land_cover = self._pixels(index, town)
        known: dict[str, Callable[[], Tensor]] = {
            "image": lambda: torch.from_numpy(image.astype(np.float32)),
            "mask": lambda: torch.from_numpy(mask.astype(np.int64)),
            "label": lambda: torch.tensor(image_label(mask, self.min_change_pixels)),
            "valid": lambda: torch.ones(mask.shape, dtype=torch.bool),
            "land_cover": lambda: torch.from_numpy(land_cover.astype(np.int64)),
        }
        return {key: make() for key, make in known.items() if key in self.keys}

    def _pixels(
        self, index: int, town: Callable[[], Town]
    ) -> tuple[NDArray[Any], ByteArray, ByteArray]:
        path = None if self.cache is None else self.cache / f"{index}.npz"
        if path is not None and path.exists():
            with border(lambda error: _damaged(path, error)), np.load(path) as found:
                return found["image"], found["mask"], found["land_cover"]
        pair = render_town(town(), self.conditions(index), bands=self.bands, dtype=self.dtype)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{index}.{os.getpid()}.npz")
            kept = BytesIO()
            np.savez(kept, image=pair.image, mask=pair.mask, land_cover=pair.land_cover)
            write_bytes(part, kept.getvalue())
            part.replace(path)
        return pair.image, pair.mask, pair.land_cover


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"expected a cached town in {shown(path)}, found damage ({reason(error)}); remove it to "
        "render it again"
    )


def _checked(knobs: Mapping[str, Any] | None, what: str, known: Sequence[str]) -> dict[str, Any]:
    """A checked copy of the parameters.

    Raises:
        DataError: for an unknown name, or a value that is neither number, pair nor text.
    """
    given = dict(knobs or {})
    dates = (*DATE_KNOBS, "t1", "t2") if what == "nuisance" else ()
    _check_knobs(given, what, (*known, *dates))
    for date in ("t1", "t2"):
        if date in given and what == "nuisance":
            given[date] = dict(given[date])
            _check_knobs(given[date], f"nuisance.{date}", DATE_KNOBS)
    return given


def _check_knobs(given: Mapping[str, Any], what: str, known: Sequence[str]) -> None:
    check_names(given, known, f"town {what}", DataError)
    for name, value in given.items():
        one_date = isinstance(value, Mapping) and name in ("t1", "t2")
        if one_date or isinstance(value, int | float | str):
            continue
        if not (isinstance(value, Sequence) and len(value) == 2 and value[0] <= value[1]):
            raise DataError(
                f"town {what}.{name}: expected a number or [low, high], found {value!r}"
            )


def _draw(rng: np.random.Generator, knob: Any) -> Any:
    """The value of a parameter for one town; text and numbers are unchanged."""
    if isinstance(knob, int | float | str):
        return knob
    low, high = knob
    return float(rng.uniform(low, high))


def _with_knobs(
    values: Values, knobs: Mapping[str, Any], rng: Callable[[str], np.random.Generator]
) -> Values:
    drawn = {name: _draw(rng(name), knob) for name, knob in knobs.items()}
    if "jpeg_quality" in drawn:
        drawn["jpeg_quality"] = round(drawn["jpeg_quality"])
    return replace(values, **drawn)


def _in_pixels(polygon: Any, town: Town) -> Any:
    return shapely.transform(polygon, lambda points: points / town.gsd_m)
