"""Plain data of a configuration against the types of what takes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from rscd.base.arguments import fitted
from rscd.base.errors import UsageError


def takes(
    sizes: Sequence[int],
    scale: tuple[float, float] = (0.5, 2.0),
    weights: Mapping[str, float] | None = None,
    mode: Literal["a", "b"] = "a",
    step: int = 0,
) -> None:
    """What a configuration may give arguments of."""


class Base:
    def __init__(self, lr: float = 0.1, name: str = "x") -> None:
        self.lr, self.name = lr, name


class Child(Base):
    def __init__(self, more: bool = False, **base: Any) -> None:
        super().__init__(**base)
        self.more = more


@dataclass(frozen=True)
class Settings:
    size: int = 1


def test_values_become_what_they_are_for() -> None:
    found = fitted(takes, {"sizes": [1, 2], "scale": [1, 3], "weights": {"a": "1e-3"}}, "x")
    assert found == {"sizes": [1, 2], "scale": (1.0, 3.0), "weights": {"a": 0.001}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sizes": [1], "scael": 1}, "x: expected sizes, scale, weights, mode, found scael"),
        ({"scale": [1, 2]}, "x: expected sizes, found none"),
        ({"sizes": [1, "b"]}, r"x: expected a valid integer.* for sizes.1, found 'b'"),
        ({"sizes": "12"}, "x: .* for sizes, found '12'"),
        ({"sizes": [1], "scale": [1]}, "for scale.1"),
        ({"sizes": [1], "scale": [1, float("nan")]}, "expected a finite number for scale.1"),
        ({"sizes": [1], "weights": 5}, "for weights, found 5"),
        ({"sizes": [1], "mode": "c"}, "expected 'a' or 'b' for mode, found 'c'"),
        ({"sizes": None}, "for sizes, found None"),
        ({"sizes": [1], "step": 3}, "found step"),
        ({3: 4}, "found 3"),
    ],
)
def test_what_does_not_fit_is_one_line(given: dict[Any, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        fitted(takes, given, "x", without=("step",))
    assert "\n" not in str(error.value)


def test_classes_hand_on_what_their_parents_take() -> None:
    assert fitted(Child, {"more": True, "lr": 1}, "x") == {"more": True, "lr": 1.0}
    with pytest.raises(UsageError, match="expected more, lr, name, found self"):
        fitted(Child, {"self": 1}, "x")
    assert fitted(Settings, {"size": 3}, "x") == {"size": 3}
