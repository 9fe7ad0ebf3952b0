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

MOVED = {
    "arguments": "base.arguments",
    "border": "base.border",
    "chain": "training.chain",
    "checkpoints": "training.checkpoints",
    "data.geometry": "synthetic.geometry",
    "data.module": "training.module",
    "data.sample": "synthetic.sample",
    "data.single_date": "synthetic.single_date",
    "data.single_date_light": "synthetic.single_date_light",
    "data.streams": "training.streams",
    "data.street_pairs": "synthetic.street_pairs",
    "data.street_scenery": "synthetic.street_scenery",
    "data.town_dataset": "synthetic.town_pairs",
    "data.town_folder": "synthetic.town_folder",
    "data.towns": "synthetic.towns",
    "errors": "base.errors",
    "files": "base.files",
    "inference.baselines": "inference.detectors.registry",
    "inference.cva": "inference.detectors.cva",
    "inference.irmad": "inference.detectors.irmad",
    "inference.moments": "inference.detectors.moments",
    "inference.multiscale": "inference.views",
    "inference.otsu": "inference.detectors.otsu",
    "inference.pca_kmeans": "inference.detectors.pca_kmeans",
    "inference.pointwise": "inference.detectors.pointwise",
    "inference.sampling": "inference.detectors.sampling",
    "methods.cam_losses": "methods.parts.cam_losses",
    "methods.diffmatch_losses": "methods.parts.diffmatch_losses",
    "methods.diffmatch_recipe": "methods.parts.diffmatch_recipe",
    "methods.draws": "methods.parts.draws",
    "methods.edges": "methods.parts.edges",
    "methods.groups": "methods.parts.groups",
    "methods.losses": "methods.parts.losses",
    "methods.multiscale": "methods.parts.multiscale",
    "methods.photometric": "methods.parts.photometric",
    "methods.scene_losses": "methods.parts.scene_losses",
    "methods.schedules": "methods.parts.schedules",
    "methods.views": "methods.parts.views",
    "objects": "metrics.objects",
    "pipeline_events": "pipeline.objects",
    "provenance": "pipeline.provenance",
    "pseudo.buildings": "segmenters.buildings",
    "pseudo.events": "events.pixels",
    "pseudo.fake": "segmenters.fake",
    "pseudo.footprints": "events.footprints",
    "pseudo.from_checkpoint": "labels.from_checkpoint",
    "pseudo.generate": "labels.from_segmenter",
    "pseudo.guided_towns": "labels.guided_towns",
    "pseudo.instances": "segmenters.instances",
    "pseudo.overlaps": "segmenters.overlaps",
    "pseudo.polygon_events": "events.polygons",
    "pseudo.precomputed": "segmenters.precomputed",
    "pseudo.prompts": "segmenters.prompts",
    "pseudo.rgb": "segmenters.rgb",
    "pseudo.scene_events": "events.scenes",
    "pseudo.segmenter": "segmenters.segmenter",
    "pseudo.spectral": "segmenters.spectral",
    "pseudo.stitch": "segmenters.stitch",
    "pseudo.store": "labels.store",
    "pseudo.vlm_clipseg": "segmenters.clipseg",
    "pseudo.vlm_sam3": "segmenters.sam3",
    "pseudo.vlm_weights": "segmenters.hub",
    "redact": "base.redact",
    "task": "training.task",
    "types": "base.types",
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
            return spec_from_loader(name, _Empty(), is_package=True)
        new = new_name(name)
        return None if new is None else spec_from_loader(name, _Alias(new))


class _Empty(Loader):
    """Loader of an empty package."""

    def create_module(self, spec: ModuleSpec) -> None:
        """Return None: the default module object will do."""

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module empty."""


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
