"""Training methods by name."""

from rscd.methods.base import Method
from rscd.methods.supervised import Supervised

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
}
