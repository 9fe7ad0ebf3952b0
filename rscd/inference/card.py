"""Validation of model cards before anything relies on them.

A card comes with a file of any origin: a value of a wrong type or of an absurd size gives one clear
line, not an error somewhere in the run or a machine out of memory.
"""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from rscd.base.border import border, reason, shown
from rscd.base.errors import ModelError
from rscd.base.types import CARD_FORMAT, Provenance

MOST_PIXELS = 8192
"""Longest side of a patch."""
MOST_HALO = 1024
"""Tiles are read with a halo on every side: above this, little but halo is computed."""
MOST_ARGUMENT = 65536
"""Larger than any width, depth, band count or 16-bit statistic of a network."""
MOST_BYTES_PER_PIXEL = 1 << 20

Share = Annotated[float, Field(ge=0, le=1)]
Metres = Annotated[float, Field(ge=1e-4, le=1e5)]
Pixels = Annotated[int, Field(ge=1, le=MOST_PIXELS)]


class Card(BaseModel):
    """The fields that rscd reads; other fields are kept unchanged if they are plain data."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    network: str
    network_args: dict[str, JsonValue]
    halo: Annotated[int, Field(ge=0, le=MOST_HALO)]
    multiple: Annotated[int, Field(ge=1, le=MOST_HALO)]
    patch_size: Pixels
    threshold: Share
    name: Annotated[str, Field(min_length=1, max_length=200)] = "model"
    summary: Annotated[str, Field(max_length=10_000)] = ""
    receptive_radius: Annotated[int, Field(ge=0, le=MOST_PIXELS)] | None = None
    bytes_per_pixel: Annotated[int, Field(ge=1, le=MOST_BYTES_PER_PIXEL)] = 1
    whole_pictures: bool = False
    min_area_m2: Annotated[float, Field(ge=0)] = 0.0
    min_score: Share = 0.0
    gsd_m: Metres = 1.0
    kind_margin: Share = 0.0
    gsd_range_m: tuple[Metres, Metres] = Field((1.0, 1.0), strict=False)

    @model_validator(mode="after")
    def _arguments_have_sizes(self) -> "Card":
        n_bands = self.network_args.get("n_bands", 1)
        if not isinstance(n_bands, int) or isinstance(n_bands, bool) or n_bands < 1:
            raise ValueError(f"network_args.n_bands should be a whole number above 0: {n_bands!r}")
        for value in _numbers(self.network_args):
            if not abs(value) <= MOST_ARGUMENT:
                raise ValueError(
                    f"network_args should hold numbers up to {MOST_ARGUMENT}: {value!r}"
                )
        return self


def _numbers(value: JsonValue) -> list[float]:
    """All numbers in plain data, at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, int | float) else []


WEIGHTS_SHA256 = "weights_sha256"
"""Key of the checksum of the weights of which a file for another program was made."""

OF_THE_FORM = ("bytes_per_pixel", "file_format", WEIGHTS_SHA256)
"""Keys of cards that may differ between two forms of one network."""


def identity(card: Provenance) -> Provenance:
    """What is the same of the cards of one network for torch and for ONNX Runtime."""
    kept = {key: value for key, value in card.items() if key not in OF_THE_FORM}
    sha256 = card.get(WEIGHTS_SHA256, card.get("sha256"))
    return kept if sha256 is None else kept | {"sha256": sha256}


def card_in(content: Any, path: Path) -> Provenance:
    """The card found in a file, checked.

    Args:
        content: plain data; None where the file has none.
        path: of the file, for messages.

    Raises:
        ModelError: there is none, or one of another format, or with unusable fields.
    """
    if content is None:
        raise ModelError(
            f"expected weights written by rscd, found a file without its card: {shown(path)}"
        )
    if isinstance(content, dict) and content.get("format") != CARD_FORMAT:
        raise ModelError(
            f"expected weights of format {CARD_FORMAT}, found {content.get('format')} in "
            f"{shown(path)}; update rscd"
        )
    return checked_card(content, path)


def checked_card(content: Any, path: Path) -> Provenance:
    """Validate a card and return it as plain data.

    Args:
        content: the card found in the file.
        path: of the file, for messages.

    Raises:
        ModelError: naming the first unusable field and its value.
    """
    again = "export the weights again, or ask whoever made them"

    def to_error(error: Exception) -> ModelError:
        found = _first(error) if isinstance(error, ValidationError) else reason(error)
        return ModelError(f"expected a model card in {shown(path)}, found {found}; {again}")

    with border(to_error):
        plain = json.loads(json.dumps(content))  # checkpoints may contain tuples
        Card.model_validate(plain)
        return dict(plain)


def _first(error: ValidationError) -> str:
    """Description of the first error in a card."""
    wrong = error.errors(include_url=False)[0]
    field = ".".join(map(str, wrong["loc"]))
    if wrong["type"] == "missing":
        return f"none of {field}"
    problem = wrong["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not field:
        return f"that {problem}"
    value = repr(wrong["input"])
    return f"{field} {value if len(value) < 60 else value[:60] + '...'}, which {problem}"
