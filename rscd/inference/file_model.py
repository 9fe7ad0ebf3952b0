"""What models in files have in common, whatever library runs them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rscd.base.files import sha256_of
from rscd.base.types import BoolArray, FloatArray, Provenance
from rscd.inference.kinds import MARGIN
from rscd.inference.predictor import Block, Expected, Tiling


@dataclass(frozen=True)
class FileModel(ABC):
    """A network in a file with a card, as `Model` and `Predictor`; its file travels to workers."""

    path: Path
    device: str
    """``cpu`` or ``cuda``."""
    threads: int
    """Cores a call may use."""
    name: str
    summary: str
    threshold: float
    tiling: Tiling
    n_bands: int
    sha256: str

    @classmethod
    def of(cls, path: Path, card: Provenance, device: str, threads: int, n_bands: int) -> Self:
        """A model as its card describes it.

        Args:
            path: of the file.
            card: checked, with what `rscd.inference.weights.measured` adds.
            device: ``cpu`` or ``cuda``.
            threads: cores a call may use.
            n_bands: bands per date.
        """
        halo, multiple, radius = card["halo"], card["multiple"], card["receptive_radius"]
        tiling = Tiling(
            halo=halo,
            multiple=multiple,
            tile_size=max(multiple, card["patch_size"] - 2 * halo),
            batch_size=8 if device == "cuda" else 1,
            bytes_per_pixel=card["bytes_per_pixel"],
            exact=radius is not None and radius <= halo,
            whole_pictures=bool(card.get("whole_pictures", False)),
            patch=card["patch_size"],
        )
        return cls(
            path=path,
            device=device,
            threads=threads,
            name=str(card.get("name", path.stem)),
            summary=str(card.get("summary", card["network"])),
            threshold=float(card["threshold"]),
            tiling=tiling,
            n_bands=n_bands,
            sha256=sha256_of(path),
        )

    @abstractmethod
    def file_card(self) -> Provenance:
        """The card in the file."""

    @abstractmethod
    def __call__(self, image: FloatArray, valid: BoolArray) -> FloatArray:
        """Predict change; see ``Predictor``."""

    def card(self) -> Provenance:
        """The card of the file, its hash, and its format."""
        own = {"name": self.name, "sha256": self.sha256, "file_format": self.path.suffix[1:]}
        return own | self.file_card()

    def fit(self, blocks: Iterable[Block], n_pixels: int) -> Self:
        """Return the model itself: it needs no statistics, so no pass over the scene."""
        return self

    def expects(self, n_bands: int) -> Expected | None:
        """Its bands and the resolution it was trained at, if its card names one."""
        card = self.file_card()
        return Expected(self.n_bands, card["gsd_m"]) if "gsd_m" in card else None

    @property
    def finds_buildings(self) -> bool:
        """Whether its card says how they tell kinds."""
        return MARGIN in self.file_card()
