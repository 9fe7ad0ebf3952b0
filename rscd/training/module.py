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
          datasets:  # several as one stream
          - class_path: rscd.data.folder.PairFolder
            init_args: {root: data/levir, split: val}
          - class_path: rscd.data.scenes.ScenePairs
            init_args: {scenes: [{t1: a1.tif, t2: a2.tif, labels: change.gpkg}]}
            patch_size: 256

``val``, ``test`` and ``predict`` are evaluated; all other streams are used for training, if the
method needs them.
"""

import inspect
import logging
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from itertools import chain
from typing import Any, Literal, cast

from jsonargparse.typing import register_type
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from rscd.base.arguments import check_names, made
from rscd.base.errors import DataError, RscdError, UsageError
from rscd.data.folder import PairFolder
from rscd.data.leaks import shared_ground
from rscd.data.samplers import InOrder
from rscd.data.scenes import ScenePairs
from rscd.data.splits import Split
from rscd.training.streams import (
    Failure,
    Joined,
    Order,
    Reader,
    Sample,
    Share,
    StreamLoader,
    Turns,
    joined_order,
    order_of,
)

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
    datasets: tuple[dict[str, Any], ...] = ()
    """Instead of ``class_path``: several datasets as one stream, with samples of one size. Each is
    described like a stream, by all of the above but ``batch_size``."""
    dataset: Dataset[Any] | None = field(default=None, init=False)

    @property
    def plain(self) -> dict[str, Any]:
        """The fields that are set, as in a YAML file."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return {name: value for name, value in found.items() if value not in ("", {}, None, ())}

    @staticmethod
    def of(dataset: Dataset[Any], **options: Any) -> "Stream":
        """A stream of an existing dataset, for notebooks; ``options`` are the other fields."""
        stream = Stream(class_path=type(dataset).__name__, **options)
        object.__setattr__(stream, "dataset", dataset)
        return stream


# otherwise the parser takes each mapping with a class path for an object, and builds the datasets
register_type(
    Stream,
    serializer=lambda stream: stream.plain,
    deserializer=lambda given: Stream(**given),
    deserializer_exceptions=TypeError,
    uniqueness_key=(__name__, "Stream"),
)


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
        self._parts = {name: _parts(name, stream) for name, stream in self.streams.items()}
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
        for part in chain.from_iterable(self._parts.values()):
            if part.init_args.get("download"):
                build_dataset(part)

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
        titles = [_title(name, part) for name in wanted for part in self._parts[name]]
        if len({self._bands[title] for title in titles}) > 1:
            found = ", ".join(f"{self._bands[title]} in {title}" for title in titles)
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
        """The dataset of a stream, after ``setup``; several as `rscd.training.streams.Joined`."""
        return self._readers[name].dataset

    def in_order(self, name: str, keys: Iterable[str]) -> InOrder:
        """The samples of a stream as they are evaluated; no ``setup`` is needed.

        Raises:
            DataError: if there is no such stream, or it cannot be read or lacks a key.
        """
        if name not in self.streams:
            raise DataError(
                f"expected a stream {name!r}, configured are {_listed(self.streams)}; name one"
            )
        self._readers[name] = self._open(name, frozenset(keys))
        return InOrder(self.dataset(name), self._order(name, shuffle=False)(0, 0))

    @property
    def split_hashes(self) -> dict[str, str]:
        """Hash of the pairs of each stream that is a folder of pairs, after ``setup``."""
        return {
            name: Split({name: reader.dataset.names}, "as read").hash
            for name, reader in self._readers.items()
            if isinstance(reader.dataset, PairFolder)
        }

    def _check_disjoint(self) -> None:
        """Refuse to evaluate on what is trained on: pairs of folders, or ground of scenes."""
        parts = {name: _datasets(reader.dataset) for name, reader in self._readers.items()}
        for name in parts.keys() & set(EVALUATED):
            for other in parts.keys() - set(EVALUATED):
                shared = _shared(parts[name], parts[other])
                if shared:
                    raise DataError(
                        f"expected other pairs in {self.title(name)} than in {self.title(other)}, "
                        f"found {len(shared)} in both, such as {shared[0]}; choose disjoint splits "
                        "or areas"
                    )

    def title(self, name: str) -> str:
        """Description of a stream in messages: its name, classes and locations."""
        return _title(name, *self._parts[name])

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
        readers = [self._open_part(name, part, keys) for part in self._parts[name]]
        if len(readers) == 1:
            return readers[0]
        common = frozenset.intersection(*(reader.keys for reader in readers))
        return Reader(Joined([reader.dataset for reader in readers]), common)

    def _open_part(self, name: str, part: Stream, keys: frozenset[str] | None) -> Reader:
        """A dataset of a stream, of which one sample was read and checked."""
        title = _title(name, part)
        try:
            dataset = part.dataset or build_dataset(part, keys)
        except (RscdError, OSError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{title}: {reason}") from error
        if isinstance(dataset, IterableDataset):
            raise DataError(
                f"{title}: expected a dataset with numbered samples, found one that only iterates; "
                "for towns give rscd.synthetic.town_pairs.TownPairs"
            )
        reader = Reader(dataset, keys if keys is not None else _all_keys(dataset))
        sample = self._probe(name, part, reader)
        missing = [key for key in sorted(reader.keys) if key not in sample]
        if keys is not None and missing:
            raise DataError(
                f"{title}: the method needs {', '.join(missing)}, its samples have "
                f"{_listed(_raw_keys(dataset, sample))}; choose a dataset with it, or its keys"
            )
        self._bands[title] = int(sample["image"].shape[1])
        return reader

    def _probe(self, name: str, part: Stream, reader: Reader) -> Sample:
        """The first readable sample."""
        title = _title(name, part)
        items = self._part_order(name, part, reader.dataset, shuffle=False)(0, 0)
        if len(items) == 0:
            raise DataError(f"{title}: expected samples, found none; check the dataset")
        found = reader[items[0]]
        for item in items[1 : PROBES if self.on_error == "skip" else 1]:
            if not isinstance(found, Failure):
                break
            found = reader[item]
        if isinstance(found, Failure):
            raise DataError(f"{title}, {found.name}: {found.reason}")
        image = found.get("image")
        if not (isinstance(image, Tensor) and image.ndim == 4 and image.shape[0] == 2):
            shape = tuple(image.shape) if isinstance(image, Tensor) else "none"
            raise DataError(
                f"{title}: expected image (2, bands, height, width), found {shape}; give a dataset "
                "of pairs"
            )
        return found

    def _order(self, name: str, *, shuffle: bool) -> Order:
        parts, dataset = self._parts[name], self._readers[name].dataset
        if not isinstance(dataset, Joined):
            return self._part_order(name, parts[0], dataset, shuffle=shuffle)
        orders = [
            self._part_order(name, part, data, number, shuffle=shuffle)
            for number, (part, data) in enumerate(zip(parts, dataset.parts, strict=True))
        ]
        return joined_order(orders, self._seed(name), shuffle=shuffle)

    def _part_order(
        self, name: str, part: Stream, dataset: Dataset[Any], *number: int, shuffle: bool
    ) -> Order:
        try:
            return order_of(
                dataset,
                (*self._seed(name), *number),
                shuffle=shuffle,
                patch_size=part.patch_size,
                stride=part.stride,
                length=part.length,
            )
        except DataError as error:
            raise DataError(f"{_title(name, part)}: {error}") from error

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
        order = self._order(name, shuffle=training and not overfit)
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
        if given.dataset is not None:
            return given
        given = given.plain
    known = [f.name for f in fields(Stream) if f.init]
    check_names(given, known, f"stream {name!r}", DataError)
    try:
        return made(Stream, given, f"stream {name!r}")
    except UsageError as error:
        raise DataError(str(error)) from error


def _parts(name: str, stream: Stream) -> tuple[Stream, ...]:
    """The datasets of a stream."""
    if not stream.class_path and not stream.datasets:
        raise DataError(f"stream {name!r}: expected class_path, found none; add it, or datasets")
    if not stream.datasets:
        return (stream,)
    if stream.class_path:
        raise DataError(f"stream {name!r}: expected class_path or datasets, found both; drop one")
    titled = ((f"{name}, dataset {i}", given) for i, given in enumerate(stream.datasets, 1))
    return tuple(part for title, given in titled for part in _parts(title, _stream(title, given)))


def _datasets(dataset: Dataset[Any]) -> tuple[Dataset[Any], ...]:
    return dataset.parts if isinstance(dataset, Joined) else (dataset,)


def _shared(first: Sequence[Dataset[Any]], second: Sequence[Dataset[Any]]) -> list[str]:
    """What two streams have in common: pairs of folders, ground of scenes."""
    files = [{f.t1 for d in part if isinstance(d, PairFolder) for f in d.files}
             for part in (first, second)]  # fmt: skip
    ground = [[g for d in part if isinstance(d, ScenePairs) for g in d.ground()]
              for part in (first, second)]  # fmt: skip
    places = [" and ".join(dict.fromkeys(names)) for names in shared_ground(*ground)]
    return [*map(str, sorted(files[0] & files[1])), *places]


def _title(name: str, *parts: Stream) -> str:
    """Description of a stream, or of a dataset of one, in messages."""
    return f"stream {name!r} ({' + '.join(map(_place, parts))})"


def _place(part: Stream) -> str:
    place = next((part.init_args[k] for k in ("root", "paths") if k in part.init_args), None)
    return part.class_path.rpartition(".")[2] + ("" if place is None else f" in {place}")


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
