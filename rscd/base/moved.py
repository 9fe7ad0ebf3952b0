"""Names of modules of version 0.1 and where they lead now.

Configurations and checkpoints of 0.1 name classes by their module, and so do programs that import
them. An old name is imported as an alias of the module that has taken its place, with a warning.
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
"""Old names, new names; both without ``rscd.``. Modules of a package move with it."""

EMPTIED = ("pseudo",)
"""Rooms that are gone: they are packages only so that names in them are looked for."""


def find_moved_modules() -> None:
    """Let old names lead to the new modules from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def new_name(old: str) -> str | None:
    """The name that has taken the place of an old one; None for names that are not old."""
    inner = old.removeprefix("rscd.")
    for known, new in MOVED.items():
        if inner == known or inner.startswith(known + "."):
            return f"rscd.{new}{inner[len(known) :]}"
    return None


class _Finder(MetaPathFinder):
    """Asked first: a package that moved still finds files of its own under the old name."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if not name.startswith("rscd."):
            return None
        if name.removeprefix("rscd.") in EMPTIED:
            return spec_from_loader(name, _Empty(), is_package=True)
        new = new_name(name)
        return None if new is None else spec_from_loader(name, _Alias(new))


class _Empty(Loader):
    """A package without files."""

    def create_module(self, spec: ModuleSpec) -> None:
        """As usual."""

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to do."""


class _Alias(Loader):
    """The module of the new name, under the old one as well."""

    def __init__(self, new: str) -> None:
        """Remember the new name."""
        self.new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The new module, with a warning that names it."""
        message = f"{spec.name} is now {self.new}; the old name goes with version 0.3"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        module = import_module(self.new)
        self.own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It ran under its new name; that stays its name."""
        module.__spec__ = self.own
