"""Differences between the supported TorchGeo versions (0.8 to 0.10).

=====================  =====================================  ===============================
what                   0.8                                    0.9 and 0.10
=====================  =====================================  ===============================
xBD / xView2           ``XView2``                             ``xBD``, the old name warns
OSCD in small patches  absent                                 ``OSCD100``
OSCD's ``transforms``  called with a leading batch dimension  unchanged in 0.9 and 0.10
checksums              md5, off by default                    sha256 for some sets, on in 0.10
=====================  =====================================  ===============================

Other modules use this one instead of comparing version numbers.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import Tensor
from torchgeo.datasets import NonGeoDataset
from torchgeo.datasets.errors import DatasetNotFoundError, DependencyNotFoundError

from rscd.base.errors import DataError

__all__ = [
    "DatasetNotFoundError",
    "DependencyNotFoundError",
    "SampleTransform",
    "dataset_class",
    "torchgeo_version",
]


def torchgeo_version() -> str:
    """The installed version, as in ``0.8.1``."""
    return str(importlib.import_module("torchgeo").__version__)


def dataset_class(names: Sequence[str]) -> Callable[..., NonGeoDataset]:
    """The first of several names of a TorchGeo dataset that this version has.

    Newest name first: the older one may still exist and warn.

    Raises:
        DataError: if this version has none of them.
    """
    datasets = importlib.import_module("torchgeo.datasets")
    for name in names:
        found = getattr(datasets, name, None)
        if isinstance(found, type) and issubclass(found, NonGeoDataset):
            return cast(Callable[..., NonGeoDataset], found)
    raise DataError(
        f"TorchGeo {torchgeo_version()} has no dataset {' or '.join(names)}; "
        "install a newer TorchGeo"
    )


class SampleTransform:
    """Applies a function of one sample, with or without a batch dimension of 1."""

    def __init__(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.change = change

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Apply the function to (2,C,H,W) and restore the original dimensions."""
        if sample["image"].ndim != 5:
            return self.change(sample)
        single = {k: v[0] if isinstance(v, Tensor) else v for k, v in sample.items()}
        changed = self.change(single)
        return {k: v[None] if isinstance(v, Tensor) else v for k, v in changed.items()}
