"""The data module: named streams of batches, configured as plain data and checked at the start.

    data:
      batch_size: 8
      streams:
        labeled:
          class_path: rscd.data.folder.PairFolder
          init_args: {root: data/levir, split: train_5}
        unlabeled:
          class_path: rscd.data.scenes.ScenePairs
          init_args: {scenes: [{t1: may.tif, t2: july.tif}]}
          patch_size: 256
        val:
          class_path: rscd.data.folder.PairFolder
          init_args: {root: data/levir, split: val}

``val``, ``test`` and ``predict`` are evaluated; all other streams are used for training, if the
method needs them.
"""

import inspect
import logging
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any, Literal, cast

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from rscd.base.arguments import check_names, made
from rscd.base.errors import DataError, RscdError, UsageError
from rscd.data.folder import PairFolder
from rscd.data.splits import Split
from rscd.training.streams import Failure, Reader, Sample, Share, StreamLoader, Turns, order_of

log = logging.getLogger(__name__)

EVALUATED = ("val", "test", "predict")
EVALUATION_NEEDS = {"val": {"image", "mask"}, "test": {"image", "mask"}, "predict": {"image"}}
STAGE_STREAMS = {"fit": ("val",), "validate": ("val",), "test": ("test",), "predict": ("predict",)}
PROBES = 16
"""Samples to try before a stream is considered unreadable."""


@dataclass(frozen=True)
class Stream:
    """Configuration of one stream."""

    class_path: str = ""
    """A dataset class, or a function that returns a dataset."""
    init_args: dict[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    """Overrides the batch size of the module."""
    patch_size: int | tuple[int, int] | None = None
    """Side or (height, width) of the patches, pixels; georeferenced scenes only."""
    stride: int | tuple[int, int] | None = None
    """Stride between patches in evaluation, in pixels; default the patch size."""
    length: int | None = None
    """Random patches per pass in training; by default enough to cover the scenes once."""
    dataset: Dataset[Any] | None = field(default=None, init=False)

    @staticmethod
    def of(dataset: Dataset[Any], **options: Any) -> "Stream":
        """A stream of an existing dataset, for notebooks; ``options`` are the other fields."""
        stream = Stream(class_path=type(dataset).__name__, **options)
        object.__setattr__(stream, "dataset", dataset)
        return stream


class ChangeDataModule(LightningDataModule):
    """Provides the streams and keys a method needs, and nothing else.

    Training batches are ``{"labeled": Batch, "unlabeled": Batch}``: the longest stream is read once
    per epoch, shorter ones are cycled (``CombinedLoader`` with ``max_size_cycle``). Evaluation
    batches are plain batches.

    The order of samples depends only on seed and epoch, not on workers; with several processes each
    reads its share, and samples that pad the last batches of an evaluation are marked ignore, so
    that metrics count every pixel once.
    """

    def __init__(
        self,
        streams: Mapping[str, Stream | dict[str, Any]],
        *,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        on_error: Literal["stop", "skip"] = "stop",
        needs: Mapping[str, Iterable[str]] | None = None,
        pin_memory: bool = False,
    ) -> None:
        """Store the configuration; no file is opened before ``setup``.

        Args:
            streams: by name.
            batch_size: samples per batch, unless a stream overrides it.
            num_workers: reader processes per stream.
            seed: determines all sample orders.
            on_error: ``stop`` ends the run at the first unreadable file, with its name; ``skip``
                omits it and counts it in ``skipped``.
            needs: keys by stream. By default the attribute ``needs`` of the trained module; without
                either, every stream and every key.
            pin_memory: for faster copies to a GPU.

        Raises:
            DataError: for impossible settings.
        """
        super().__init__()
        self.streams = {name: _stream(name, given) for name, given in streams.items()}
        if seed < 0:
            raise DataError(f"expected a seed of 0 or more, found {seed}")
        if batch_size < 1 or num_workers < 0:
            raise DataError(
                "expected batch_size of 1 or more and num_workers of 0 or more, found "
                f"{batch_size} and {num_workers}"
            )
        if on_error not in ("stop", "skip"):
            raise DataError(f"expected on_error stop or skip, found {on_error!r}")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.on_error = on_error
        self.needs = None if needs is None else {name: set(keys) for name, keys in needs.items()}
        self.pin_memory = pin_memory
        self._readers: dict[str, Reader] = {}
        self._loaders: dict[str, StreamLoader] = {}
        self._bands: dict[str, int] = {}
        self._places: dict[str, Mapping[str, int]] = {}

    def prepare_data(self) -> None:
        """Download datasets in one process."""
        for stream in self.streams.values():
            if stream.init_args.get("download"):
                build_dataset(stream)

    def setup(self, stage: str) -> None:
        """Open the datasets of a stage and check a sample of each.

        Raises:
            DataError: if a stream or key the method needs is missing, nothing can be read, or
                streams differ in bands.
        """
        wanted = self._wanted(stage)
        for name, keys in wanted.items():
            if name not in self._readers:
                self._readers[name] = self._open(name, keys)
        if len({self._bands[name] for name in wanted}) > 1:
            found = ", ".join(f"{self._bands[name]} in {self.title(name)}" for name in wanted)
            raise DataError(f"expected the same bands in every stream, found {found}; choose bands")
        self._check_disjoint()

    def train_dataloader(self) -> CombinedLoader:
        """Batches by stream."""
        names = [name for name in self._readers if name not in EVALUATED]
        return CombinedLoader({name: self._loader(name) for name in names}, "max_size_cycle")

    def val_dataloader(self) -> StreamLoader | list[Any]:
        """Batches of ``val``; empty if there is no such stream."""
        return self._loader("val") if "val" in self._readers else []

    def test_dataloader(self) -> StreamLoader:
        """Batches of ``test``."""
        return self._loader("test")

    def predict_dataloader(self) -> StreamLoader:
        """Batches of ``predict``."""
        return self._loader("predict")

    def state_dict(self) -> dict[str, dict[str, int]]:
        """Position of each training stream; part of every checkpoint.

        Lightning also saves the loaders' states, but restores them only if the number of steps has
        not been requested before, which every schedule does.
        """
        return {name: x.state_dict() for name, x in self._loaders.items() if name not in EVALUATED}

    def load_state_dict(self, state_dict: dict[str, dict[str, int]]) -> None:
        """Restore the position of each stream."""
        self._places = dict(state_dict)

    def teardown(self, stage: str) -> None:
        """Release datasets and workers; log what was skipped."""
        for name, count in self.skipped.items():
            log.warning(
                "%s: %d samples could not be read and were skipped", self.title(name), count
            )
        for loader in self._loaders.values():
            loader.close()
        self._loaders.clear()
        self._readers.clear()

    @property
    def n_bands(self) -> int:
        """Bands of either date, after ``setup``."""
        return next(iter(self._bands.values()))

    @property
    def skipped(self) -> dict[str, int]:
        """Number of failed reads that were skipped, by stream."""
        counts = {name: loader.skipped.total() for name, loader in self._loaders.items()}
        return {name: count for name, count in counts.items() if count}

    def dataset(self, name: str) -> Dataset[Any]:
        """The dataset of a stream, after ``setup``."""
        return self._readers[name].dataset

    @property
    def split_hashes(self) -> dict[str, str]:
        """Hash of the pairs of each stream that is a folder of pairs, after ``setup``."""
        return {
            name: Split({name: folder.names}, "as read").hash
            for name, folder in self._folders().items()
        }

    def _folders(self) -> dict[str, PairFolder]:
        datasets = {name: reader.dataset for name, reader in self._readers.items()}
        return {name: data for name, data in datasets.items() if isinstance(data, PairFolder)}

    def _check_disjoint(self) -> None:
        """Refuse to evaluate on training pairs."""
        files = {name: {f.t1 for f in data.files} for name, data in self._folders().items()}
        for name in files.keys() & set(EVALUATED):
            for other in files.keys() - set(EVALUATED):
                shared = sorted(files[name] & files[other])
                if shared:
                    raise DataError(
                        f"expected other pairs in {self.title(name)} than in {self.title(other)}, "
                        f"found {len(shared)} in both, such as {shared[0]}; choose disjoint splits"
                    )

    def title(self, name: str) -> str:
        """Description of a stream in messages: its name, class and location."""
        stream = self.streams[name]
        place = next(
            (stream.init_args[k] for k in ("root", "paths") if k in stream.init_args), None
        )
        kind = stream.class_path.rpartition(".")[2]
        return f"stream {name!r} ({kind}{'' if place is None else f' in {place}'})"

    def _wanted(self, stage: str) -> dict[str, frozenset[str] | None]:
        """Streams of a stage and the keys of each; None: all keys."""
        needs = self.needs if self.needs is not None else self._needs_of_module()
        training = [name for name in self.streams if name not in EVALUATED]
        chosen: dict[str, frozenset[str] | None] = {}
        if stage == "fit":
            if needs is None:
                chosen |= dict.fromkeys(training)
            else:
                chosen |= {k: frozenset(v) for k, v in needs.items() if k not in EVALUATED}
            self._check_names(chosen, training)
        for name in STAGE_STREAMS[stage]:
            if name in self.streams:
                chosen[name] = frozenset((needs or {}).get(name, EVALUATION_NEEDS[name]))
            elif stage != "fit":
                raise DataError(
                    f"expected a stream {name!r} to {stage}, found {_listed(self.streams)}; add it"
                )
        return chosen

    def _needs_of_module(self) -> Mapping[str, Iterable[str]] | None:
        module = getattr(self.trainer, "lightning_module", None)
        return cast("Mapping[str, Iterable[str]] | None", getattr(module, "needs", None))

    def _check_names(self, chosen: Iterable[str], training: Sequence[str]) -> None:
        missing = [name for name in chosen if name not in self.streams]
        if missing:
            raise DataError(
                f"the method needs the stream {missing[0]!r}, configured are "
                f"{_listed(self.streams)}; add it to streams"
            )
        if not training:
            raise DataError(
                f"expected a stream to train on, found {_listed(self.streams)}; add one"
            )
        for name in set(training) - set(chosen):
            log.info("%s is not used: the method does not need it", self.title(name))

    def _open(self, name: str, keys: frozenset[str] | None) -> Reader:
        stream = self.streams[name]
        try:
            dataset = stream.dataset or build_dataset(stream, keys)
        except (RscdError, OSError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{self.title(name)}: {reason}") from error
        if isinstance(dataset, IterableDataset):
            raise DataError(
                f"{self.title(name)}: expected a dataset with numbered samples, found one that "
                "only iterates; for towns give rscd.synthetic.town_pairs.TownPairs"
            )
        reader = Reader(dataset, keys if keys is not None else _all_keys(dataset))
        sample = self._probe(name, reader)
        missing = [key for key in sorted(reader.keys) if key not in sample]
        if keys is not None and missing:
            raise DataError(
                f"{self.title(name)}: the method needs {', '.join(missing)}, its samples have "
                f"{_listed(_raw_keys(dataset, sample))}; choose a dataset with it, or its keys"
            )
        self._bands[name] = int(sample["image"].shape[1])
        return reader

    def _probe(self, name: str, reader: Reader) -> Sample:
        """The first readable sample."""
        items = self._order(name, reader.dataset, shuffle=False)(0, 0)
        if len(items) == 0:
            raise DataError(f"{self.title(name)}: expected samples, found none; check the dataset")
        found = reader[items[0]]
        for item in items[1 : PROBES if self.on_error == "skip" else 1]:
            if not isinstance(found, Failure):
                break
            found = reader[item]
        if isinstance(found, Failure):
            raise DataError(f"{self.title(name)}, {found.name}: {found.reason}")
        image = found.get("image")
        if not (isinstance(image, Tensor) and image.ndim == 4 and image.shape[0] == 2):
            shape = tuple(image.shape) if isinstance(image, Tensor) else "none"
            raise DataError(
                f"{self.title(name)}: expected image (2, bands, height, width), found {shape}; "
                "give a dataset of pairs"
            )
        return found

    def _order(self, name: str, dataset: Dataset[Any], *, shuffle: bool) -> Callable[..., Any]:
        stream = self.streams[name]
        try:
            return order_of(
                dataset,
                self._seed(name),
                shuffle=shuffle,
                patch_size=stream.patch_size,
                stride=stream.stride,
                length=stream.length,
            )
        except DataError as error:
            raise DataError(f"{self.title(name)}: {error}") from error

    def _loader(self, name: str) -> StreamLoader:
        if name not in self._readers:
            raise DataError(f"stream {name!r} is not open; call setup first")
        if name not in self._loaders:
            self._loaders[name] = self._new_loader(name)
            if name in self._places:
                self._loaders[name].load_state_dict(self._places.pop(name))
        return self._loaders[name]

    def _new_loader(self, name: str) -> StreamLoader:
        training = name not in EVALUATED
        overfit = getattr(self.trainer, "overfit_batches", 0) > 0
        reader = self._readers[name]
        order = self._order(name, reader.dataset, shuffle=training and not overfit)
        size = self.streams[name].batch_size or self.batch_size
        turns = Turns(order, size, self._share(), training=training)
        if len(turns) == 0:
            raise DataError(
                f"{self.title(name)}: expected at least one batch of {size} for each process, "
                f"found {len(order(0, 0))} samples; reduce batch_size"
            )
        return StreamLoader(
            self.title(name),
            reader,
            turns,
            seed=self._seed(name),
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            skip_broken=self.on_error == "skip",
        )

    def _seed(self, name: str) -> tuple[int, int]:
        return self.seed, zlib.crc32(name.encode())

    def _share(self) -> Share:
        if self.trainer is None:
            return Share()
        return Share(self.trainer.global_rank, self.trainer.world_size)


def _stream(name: str, given: Stream | dict[str, Any]) -> Stream:
    if isinstance(given, Stream):
        return given
    known = [f.name for f in fields(Stream) if f.init]
    check_names(given, known, f"stream {name!r}", DataError)
    if not given.get("class_path"):
        raise DataError(f"stream {name!r}: expected class_path, found none; add it")
    try:
        return made(Stream, given, f"stream {name!r}")
    except UsageError as error:
        raise DataError(str(error)) from error


def build_dataset(stream: Stream, keys: frozenset[str] | None = None) -> Dataset[Any]:
    """Build the dataset of a stream.

    Arguments are checked and converted by the types of the class, as LightningCLI does.

    Args:
        stream: with class path and arguments.
        keys: passed to classes with a parameter ``keys`` that is not set, so that they open no
            unneeded file.

    Raises:
        DataError: if there is no such class, or it does not accept these arguments.
    """
    if stream.dataset is not None:
        return stream.dataset
    kind = _imported(stream.class_path)
    arguments = dict(stream.init_args)
    if keys is not None and "keys" in inspect.signature(kind).parameters:
        arguments.setdefault("keys", sorted(keys))
    return cast(Dataset[Any], _called(kind, arguments))


def _imported(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    try:
        return cast(Callable[..., Any], getattr(import_module(module), name))
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"no dataset {path!r} ({error}); give its full name, such as "
            "rscd.data.folder.PairFolder"
        ) from error


def _called(kind: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    is_class = inspect.isclass(kind)
    add = parser.add_class_arguments if is_class else parser.add_function_arguments
    add(kind, "dataset", fail_untyped=False)
    try:
        parsed = parser.parse_object({"dataset": dict(arguments)})
    except ArgumentError as error:
        raise DataError(
            f"{kind.__name__} does not take these init_args: {error.message}"
        ) from error
    # renamed in jsonargparse 4.49
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    made = instantiate(parsed).dataset
    return made if is_class else kind(**made.as_dict())


def _all_keys(dataset: Dataset[Any]) -> frozenset[str]:
    keys = getattr(dataset, "keys", None)
    if isinstance(keys, set | frozenset):
        return frozenset(keys)
    return frozenset({"image", "mask", "label", "valid"})


def _raw_keys(dataset: Dataset[Any], sample: Sample) -> Iterable[str]:
    keys = getattr(dataset, "keys", None)
    return keys if isinstance(keys, set | frozenset) else sample.keys()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
