"""What ``rscd pseudolabel --checkpoint`` makes masks for: a folder of pairs, or scenes."""

import argparse
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rscd.base.border import border, reason
from rscd.base.errors import UsageError
from rscd.base.types import Progress, Provenance
from rscd.cli.options import bands_of

if TYPE_CHECKING:
    from rscd.data.folder import PairFolder
    from rscd.data.samplers import InOrder
    from rscd.inference.network import Network
    from rscd.labels.from_checkpoint import ChangeMaps, Samples, Summary
    from rscd.training.module import ChangeDataModule

CONFIGS = (".yaml", ".yml")


class Source(ABC):
    """Pairs that get masks, and those that a threshold is chosen from."""

    data: "Samples"
    """The pairs, with ``image``, ``valid`` and, unless all are predicted, ``label``."""

    @property
    @abstractmethod
    def eight_bit(self) -> bool:
        """Whether the images have 8-bit values."""

    @property
    @abstractmethod
    def folders(self) -> list[Path]:
        """Folders for the masks."""

    @abstractmethod
    def recipe(self) -> Provenance:
        """What decides the masks besides the options; images of single pairs are noted apart."""

    @abstractmethod
    def labelled(self, rule: str) -> "tuple[Samples, str]":
        """The pairs that ``val`` or ``train_oracle`` chooses a threshold from, and their hash."""

    @contextmanager
    def held(self, recipe: Provenance, *, overwrite: bool) -> Iterator[Provenance | None]:
        """Keep other runs out; see `rscd.labels.from_checkpoint.prepare`."""
        from rscd.labels.from_checkpoint import prepare

        with prepare(self.folders, recipe, overwrite=overwrite) as earlier:
            yield earlier

    def note(self, run: Provenance) -> None:
        """Write what makes the masks beside them."""
        from rscd.labels.from_checkpoint import note

        note(self.folders, run)

    @abstractmethod
    def write(self, maps: "ChangeMaps", threshold: float, progress: Progress) -> "Summary":
        """Write the missing masks."""


def source_of(args: argparse.Namespace, network: "Network") -> Source:
    """The pairs that the arguments name."""
    keys = {"image", "valid"} | (set() if args.no_gate else {"label"})
    if args.t2 is not None:
        return OfScenes(args, _two_rasters(args, network, keys), None)
    if not args.dataset.lower().endswith(CONFIGS):
        return OfFolder(args, _folder(args, args.split, keys))
    from rscd.data.folder import PairFolder
    from rscd.data.scenes import ScenePairs

    if args.labels is not None or args.bands is not None:
        raise UsageError(
            "expected labels and bands in the configuration, found --labels or --bands; drop them"
        )
    streams = _streams(Path(args.dataset))
    name = args.split or "train"
    data = streams.in_order(name, keys)
    if isinstance(data.dataset, PairFolder):
        return OfFolder(args, data.dataset, streams)
    if not isinstance(data.dataset, ScenePairs):
        raise UsageError(
            f"expected pairs of a folder or scenes in {streams.title(name)}, found others; name "
            "another stream with --split"
        )
    return OfScenes(args, data, streams)


@dataclass
class OfFolder(Source):
    """Pairs of a folder; masks beside the dates or in a folder like it."""

    args: argparse.Namespace
    data: "PairFolder"
    streams: "ChangeDataModule | None" = None

    @property
    def eight_bit(self) -> bool:
        """See `Source`."""
        return self.data.eight_bit

    @property
    def place(self) -> "str | Path":
        """Name of a folder beside the dates, or path of a folder elsewhere."""
        if self.args.output is None:
            return self.args.name or "pseudo"
        if self.args.name is not None:
            raise UsageError("expected one of -o and --name, found both; drop one")
        return Path(self.args.output)

    @property
    def folders(self) -> list[Path]:
        """See `Source`."""
        from rscd.labels.from_checkpoint import mask_folders

        return mask_folders(self.data, self.place)

    def recipe(self) -> Provenance:
        """See `Source`."""
        from rscd.data.splits import Split

        return {
            "labels": _hash(self.data.labels),
            "pairs": Split({"all": self.data.names}, "as read").hash,
        }

    def labelled(self, rule: str) -> "tuple[Samples, str]":
        """See `Source`."""
        from rscd.labels.from_checkpoint import chosen_from

        if rule == "otsu":
            return self.data, chosen_from(self.data)
        split = self.args.split if rule == "train_oracle" else self.args.val_split
        if self.streams is None:
            found = _folder(self.args, split, {"image", "mask"})
            return found, chosen_from(found)
        return _labelled(self.streams, split or "train")

    @contextmanager
    def held(self, recipe: Provenance, *, overwrite: bool) -> Iterator[Provenance | None]:
        """See `Source`."""
        from rscd.labels.from_checkpoint import drop_outdated

        with super().held(recipe, overwrite=overwrite) as earlier:
            if earlier is not None:
                drop_outdated(self.data, self.place, earlier.get("images"))
            yield earlier

    def note(self, run: Provenance) -> None:
        """See `Source`."""
        from rscd.labels.from_checkpoint import images_of

        super().note(run | {"images": images_of(self.data)})

    def write(self, maps: "ChangeMaps", threshold: float, progress: Progress) -> "Summary":
        """See `Source`."""
        from rscd.labels.from_checkpoint import write_pseudo_masks

        return write_pseudo_masks(self.data, maps, threshold, self.place, progress=progress)


@dataclass
class OfScenes(Source):
    """Patches of georeferenced scenes; one mask per scene in a folder."""

    args: argparse.Namespace
    data: "InOrder"
    streams: "ChangeDataModule | None"

    @property
    def eight_bit(self) -> bool:
        """See `Source`."""
        return bool(self.data.dataset.eight_bit)

    @property
    def folders(self) -> list[Path]:
        """See `Source`."""
        if self.args.output is None or self.args.name is not None:
            raise UsageError("expected -o FOLDER for masks of scenes, and no --name; correct both")
        return [Path(self.args.output)]

    def recipe(self) -> Provenance:
        """See `Source`."""
        from rscd.labels.of_scenes import identity

        boxes = [self.data.dataset.locate(query)[1] for query in self.data.items]
        return {
            "scenes": identity(self.data.dataset),
            "patches": hashlib.sha256(str(boxes).encode()).hexdigest(),
        }

    def labelled(self, rule: str) -> "tuple[Samples, str]":
        """See `Source`."""
        if rule == "otsu":
            return self.data, self.recipe()["scenes"]
        if self.streams is None:
            raise UsageError(
                f"expected --threshold otsu or a number with two rasters, found {rule}; name masks "
                "to choose it by as a stream of a training configuration"
            )
        name = self.args.val_split if rule == "val" else self.args.split or "train"
        return _labelled(self.streams, name)

    def write(self, maps: "ChangeMaps", threshold: float, progress: Progress) -> "Summary":
        """See `Source`."""
        from rscd.labels.of_scenes import write_scene_masks

        return write_scene_masks(self.data, maps, threshold, *self.folders, progress=progress)


def _two_rasters(args: argparse.Namespace, network: "Network", keys: set[str]) -> "InOrder":
    from rscd.data.samplers import InOrder, grid_queries
    from rscd.data.scenes import Scene, ScenePairs

    if args.split is not None or (args.labels is None and not args.no_gate):
        raise UsageError(
            "expected --labels FILE (polygons or a table with changed yes or no) or --no-gate, and "
            "no --split with two rasters; correct the options"
        )
    scene = Scene(args.dataset, args.t2, answers=None if args.no_gate else args.labels)
    scenes = ScenePairs(scene, keys=keys, bands=bands_of(args))
    return InOrder(scenes, grid_queries(scenes, network.card()["patch_size"]))


def _folder(args: argparse.Namespace, split: str | None, keys: set[str]) -> "PairFolder":
    from rscd.data.folder import PairFolder

    labels = args.labels if "label" in keys else None
    return PairFolder(args.dataset, split, keys=keys, labels=labels, bands=bands_of(args))


def _streams(path: Path) -> "ChangeDataModule":
    """The streams of a training configuration."""
    import yaml

    from rscd.training.module import ChangeDataModule

    def told(error: Exception) -> UsageError:
        return UsageError(
            f"expected a training configuration with data.streams in {path}, found none "
            f"({reason(error)}); give the YAML file of a training, or config.yaml of its run"
        )

    with border(told):
        streams = dict(yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["streams"])
    return ChangeDataModule(streams)


def _labelled(streams: "ChangeDataModule", name: str) -> "tuple[Samples, str]":
    """A stream with masks, and a hash of what its files are."""
    from rscd.base.files import digest_of
    from rscd.data.folder import PairFolder
    from rscd.data.scenes import ScenePairs
    from rscd.labels.from_checkpoint import chosen_from
    from rscd.labels.of_scenes import identity

    data = streams.in_order(name, {"image", "mask"})
    hashes = []
    for part in getattr(data.dataset, "parts", (data.dataset,)):
        if isinstance(part, PairFolder):
            hashes.append(chosen_from(part))
        if isinstance(part, ScenePairs):
            hashes.append(identity(part))
    return data, digest_of({"parts": hashes, "samples": len(data)})


def _hash(labels: Mapping[str, int]) -> str:
    text = "".join(f"{name} {label}\n" for name, label in sorted(labels.items()))
    return hashlib.sha256(text.encode()).hexdigest()
