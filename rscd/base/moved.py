"""Module names of version 0.1 and the modules that replaced them.

Configurations and checkpoints of 0.1 name classes by their module, and programs import them by it.
Importing an old name gives the module that replaced it, with a warning.
"""

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

SAME_NAME = (
    ("", "base", "arguments border errors files redact types"),
    ("", "training", "chain checkpoints task"),
    ("data", "synthetic", "geometry sample single_date single_date_light street_pairs"),
    ("data", "synthetic", "street_scenery town_folder towns"),
    ("data", "training", "module streams"),
    ("inference", "inference.detectors", "cva irmad moments otsu pca_kmeans pointwise sampling"),
    ("methods", "methods.parts", "cam_losses diffmatch_losses diffmatch_recipe draws edges groups"),
    ("methods", "methods.parts", "losses multiscale photometric scene_losses schedules views"),
    ("pseudo", "labels", "from_checkpoint guided_towns store"),
    ("pseudo", "segmenters", "buildings fake instances overlaps precomputed prompts rgb"),
    ("pseudo", "segmenters", "segmenter spectral stitch"),
)
"""(old package, new package, names of modules that moved and kept their name)."""

MOVED = {
    "data.town_dataset": "synthetic.town_pairs",
    "inference.baselines": "inference.detectors.registry",
    "inference.multiscale": "inference.views",
    "objects": "metrics.objects",
    "pipeline_events": "pipeline.objects",
    "provenance": "pipeline.provenance",
    "pseudo.events": "events.pixels",
    "pseudo.footprints": "events.footprints",
    "pseudo.generate": "labels.from_segmenter",
    "pseudo.polygon_events": "events.polygons",
    "pseudo.scene_events": "events.scenes",
    "pseudo.vlm_clipseg": "segmenters.clipseg",
    "pseudo.vlm_sam3": "segmenters.sam3",
    "pseudo.vlm_weights": "segmenters.hub",
} | {
    f"{old}.{name}".removeprefix("."): f"{new}.{name}"
    for old, new, names in SAME_NAME
    for name in names.split()
}
"""Old name to new name, both without ``rscd.``; a package's modules move with it."""

EMPTIED = ("pseudo",)
"""Packages that no longer exist; kept importable so that old names in them resolve."""


def find_moved_modules() -> None:
    """Register the import hook that resolves old names to the new modules."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def new_name(old: str) -> str | None:
    """The replacement of an old name; None for names that did not move."""
    inner = old.removeprefix("rscd.")
    for known, new in MOVED.items():
        if inner == known or inner.startswith(known + "."):
            return f"rscd.{new}{inner[len(known) :]}"
    return None


class _Finder(MetaPathFinder):
    """Import hook; runs first because a moved package would find its own files by the old name."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if not name.startswith("rscd."):
            return None
        if name.removeprefix("rscd.") in EMPTIED:
            return ModuleSpec(name, None, is_package=True)  # without a loader: empty
        new = new_name(name)
        return None if new is None else spec_from_loader(name, _Alias(new))


class _Alias(Loader):
    """Loader that returns the new module under its old name."""

    def __init__(self, new: str) -> None:
        """Store the new name."""
        self.new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the new module and warn that the old name is deprecated."""
        message = f"{spec.name} is now {self.new}; the old name will be removed in version 0.3"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        module = import_module(self.new)
        self.own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's own spec; it has already run under its new name."""
        module.__spec__ = self.own
