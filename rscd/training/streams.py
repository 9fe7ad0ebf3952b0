"""One stream of batches: order of samples, reading, and handling of unreadable files.

The order is a function of (seed, epoch, pass) only, and is divided among processes before any
worker sees it, so that a run can be interrupted at any batch and resumed with the next one.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchgeo.datasets import GeoDataset

from rscd.base.errors import DataError, RscdError
from rscd.base.types import IGNORE
from rscd.data.samplers import PatchSize, grid_queries, random_queries

log = logging.getLogger(__name__)

Sample = dict[str, Any]
Order = Callable[[int, int], Sequence[Any]]
"""(epoch, pass within the epoch) -> dataset indices or queries, in order."""

ABOUT = frozenset({"name", "crs", "bounds", "transform", "gsd_m"})
"""Keys that identify a sample; always kept, as lists, whatever a method needs."""
NO_FLOW = (
    "found a pair without (use_flow is 0); set method_args.use_flow: true, so that the masks "
    "alone are learned of such pairs"
)
PASSES = 2**20
"""More passes over an endless dataset within one epoch than any run needs."""


@dataclass(frozen=True)
class Repeat:
    """A sample that only pads a process's share: nothing in it may be counted."""

    item: Any


class Of(NamedTuple):
    """A sample of one of several datasets."""

    part: int
    item: Any


class Joined(Dataset[Sample]):
    """Several datasets as one, whose samples are asked for by part and item."""

    def __init__(self, parts: Sequence[Dataset[Any]]) -> None:
        self.parts = tuple(parts)

    def __getitem__(self, item: Of) -> Sample:
        """Read one sample of one part: its tensors, and the name; parts differ in the rest."""
        sample = self.parts[item.part][item.item]
        tensors = {key: value for key, value in sample.items() if isinstance(value, Tensor)}
        return {"name": sample.get("name", _item_text(item)), **tensors}


@dataclass(frozen=True)
class Failure:
    """A sample that could not be read."""

    name: str
    reason: str
    skippable: bool = True
    """False for errors that skipping the sample does not solve."""


class Reader(Dataset[Sample | Failure]):
    """Samples with only the requested keys; errors are returned as values for the loader."""

    def __init__(self, dataset: Dataset[Any], keys: frozenset[str]) -> None:
        self.dataset = dataset
        self.keys = keys

    def __getitem__(self, item: Any) -> Sample | Failure:
        """Read one sample; everything except ``keys`` and its origin is dropped."""
        asked = item.item if isinstance(item, Repeat) else item
        try:
            sample = self.dataset[asked]
        except (RscdError, OSError) as error:
            return Failure(_item_text(asked), " ".join(str(error).split()))
        if {"flow"} == self.keys & {"flow", "use_flow"} and not bool(sample.get("use_flow", 1)):
            # its zeros would be learned
            return Failure(_name(sample), f"expected its flow, {NO_FLOW}", skippable=False)
        sample = {k: v for k, v in sample.items() if k in self.keys or k in ABOUT}
        return uncounted(sample) if isinstance(item, Repeat) else sample


def _item_text(item: Any) -> str:
    if isinstance(item, Of):
        return f"dataset {item.part + 1}, {_item_text(item.item)}"
    if not isinstance(item, tuple):
        return f"sample {item}"
    return "patch at " + ", ".join(f"{part.start:.10g}" for part in item[:2])


def uncounted(sample: Sample) -> Sample:
    """The sample with all labels 255 = ignore and no valid pixel."""
    labels = {k: v for k, v in sample.items() if isinstance(v, Tensor) and v.dtype == torch.int64}
    blank = {k: torch.full_like(v, IGNORE) for k, v in labels.items()}
    if "valid" in sample:
        blank["valid"] = torch.zeros_like(sample["valid"])
    return {**sample, **blank}


def collate(samples: Sequence[Sample | Failure]) -> tuple[Sample | None, list[Failure]]:
    """Stack samples without padding.

    Returns:
        The batch: tensors stacked, everything else as lists in the order of the samples. None if
        there is nothing to stack, also because shapes or keys differ, which is a failure too.
    """
    failures = [s for s in samples if isinstance(s, Failure)]
    good = [s for s in samples if not isinstance(s, Failure)]
    if not good:
        return None, failures
    odd = next((s for s in good if _shapes(s) != _shapes(good[0])), None)
    if odd is not None:
        return None, [*failures, Failure(_name(odd), _difference(good[0], odd), False)]
    return {key: _joined([s[key] for s in good]) for key in good[0]}, failures


def _shapes(sample: Sample) -> dict[str, tuple[int, ...] | None]:
    return {k: tuple(v.shape) if isinstance(v, Tensor) else None for k, v in sample.items()}


def _name(sample: Sample) -> str:
    return str(sample.get("name", "a sample"))


def _difference(first: Sample, odd: Sample) -> str:
    a, b = _shapes(first), _shapes(odd)
    key = next(key for key in {**a, **b} if a.get(key, "absent") != b.get(key, "absent"))
    return (
        f"expected samples of one shape in a batch, found {key} {b.get(key, 'absent')} beside "
        f"{a.get(key, 'absent')} of {_name(first)}; cut patches of one size first, or set "
        "batch_size: 1"
    )


def _joined(values: list[Any]) -> Any:
    if not isinstance(values[0], Tensor):
        return values
    stacked = torch.stack(values)
    return stacked if get_worker_info() is None else pack(stacked)


class Packed(NamedTuple):
    """A tensor sent by a worker, losslessly converted to a smaller type."""

    values: Tensor
    dtype: torch.dtype


def pack(tensor: Tensor) -> Tensor | Packed:
    """Convert a tensor to one or two bytes per value, if these represent all its values exactly.

    Sending a batch from a worker to the trainer takes longer than decoding it if every pixel of an
    8-bit image is sent as four bytes, and of a mask as eight.
    """
    if tensor.dtype not in (torch.float32, torch.int64) or tensor.numel() == 0:
        return tensor
    low, high = (float(value) for value in tensor.aminmax())
    for narrow in (torch.uint8, torch.int16):
        limits = torch.iinfo(narrow)
        if limits.min <= low and high <= limits.max:
            values = tensor.to(narrow)
            exact = torch.equal(values.to(tensor.dtype), tensor)
            return Packed(values, tensor.dtype) if exact else tensor
    return tensor


def unpack(batch: Sample) -> Sample:
    """The batch as it was stacked; pinned if it arrived pinned."""
    return {k: _unpacked(v) if isinstance(v, Packed) else v for k, v in batch.items()}


def _unpacked(packed: Packed) -> Tensor:
    values = packed.values.to(packed.dtype)
    return values.pin_memory() if packed.values.is_pinned() else values


def order_of(
    dataset: Dataset[Any],
    seed: Sequence[int],
    *,
    shuffle: bool,
    patch_size: PatchSize | None = None,
    stride: PatchSize | None = None,
    length: int | None = None,
) -> Order:
    """Order in which a dataset is read.

    Args:
        dataset: one with a length and indices from 0, which may be exceeded if its attribute
            ``endless`` is true; or a georeferenced one, queried by rectangles.
        seed: numbers that identify the stream.
        shuffle: for training: a new order (new patches, new towns) in every pass. Otherwise the
            same samples in their original order.
        patch_size: side or (height, width) of a patch, pixels; georeferenced datasets only.
        stride: between patches, if all are read in order; default the patch size.
        length: random patches per pass; by default enough to cover the scenes once.

    Raises:
        DataError: if a patch size is missing or not applicable, or the dataset has no length.
    """
    if isinstance(dataset, GeoDataset):
        if patch_size is None:
            raise DataError("georeferenced scenes are cut into patches: set patch_size")
        if shuffle:
            draw = partial(random_queries, dataset, patch_size, length)
            return lambda epoch, turn: draw(seed=(*seed, epoch, turn))
        queries = grid_queries(dataset, patch_size, stride)
        return lambda _epoch, _turn: queries
    if not (patch_size is stride is length is None):
        raise DataError(
            "patch_size, stride and length apply to georeferenced scenes, this dataset has indexed "
            "samples; remove them"
        )
    if not hasattr(dataset, "__len__"):
        raise DataError("expected a dataset with a length; give one with indexed samples")
    count = len(dataset)
    if not shuffle:
        return lambda _epoch, _turn: range(count)
    if getattr(dataset, "endless", False):
        return lambda epoch, turn: range(
            (epoch * PASSES + turn) * count, (epoch * PASSES + turn + 1) * count
        )
    return lambda epoch, turn: _shuffled(count, (*seed, epoch, turn))


def joined_order(orders: Sequence[Order], seed: Sequence[int], *, shuffle: bool) -> Order:
    """Order of a `Joined` dataset: one pass over every part, in turn or mixed.

    Args:
        orders: of the parts.
        seed: numbers that identify the stream.
        shuffle: for training; samples of all parts are mixed.
    """

    def order(epoch: int, turn: int) -> list[Of]:
        items = [Of(i, item) for i, part in enumerate(orders) for item in part(epoch, turn)]
        if not shuffle:
            return items
        return [items[i] for i in _shuffled(len(items), (*seed, epoch, turn))]

    return order


def _shuffled(count: int, seed: Sequence[int]) -> list[int]:
    return cast(list[int], np.random.default_rng(list(seed)).permutation(count).tolist())


@dataclass(frozen=True)
class Share:
    """The part of every pass that a process reads."""

    rank: int = 0
    world_size: int = 1

    def of(self, items: Sequence[Any], *, drop: bool) -> list[Any]:
        """Every ``world_size``-th item; all shares have the same length.

        Args:
            items: the pass.
            drop: drop the last items that cannot be divided evenly; otherwise shares are padded
                with samples that do not count.
        """
        rest = len(items) % self.world_size
        whole = list(items)
        if rest and drop:
            whole = whole[:-rest]
        elif rest:
            whole += [Repeat(items[i % len(items)]) for i in range(self.world_size - rest)]
        return whole[self.rank :: self.world_size]


class Turns:
    """The batches of a process, as ``batch_sampler`` of a ``DataLoader``."""

    def __init__(self, order: Order, batch_size: int, share: Share, *, training: bool) -> None:
        self.order = order
        self.batch_size = batch_size
        self.share = share
        self.training = training
        self.epoch = 0
        self.turn = 0
        self.skip = 0
        self._count = len(self._batches(0, 0))

    @property
    def sampler(self) -> "Turns":
        """Itself: Lightning sets the epoch of ``batch_sampler.sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Any]]:
        """Batches of the current pass from the first that is not skipped."""
        return iter(self._batches(self.epoch, self.turn)[self.skip :])

    def __len__(self) -> int:
        return self._count

    def _batches(self, epoch: int, turn: int) -> list[list[Any]]:
        items = self.share.of(self.order(epoch, turn), drop=self.training)
        size = self.batch_size
        found = [items[start : start + size] for start in range(0, len(items), size)]
        if self.training and found and len(found[-1]) < size:
            found.pop()
        return found


class StreamLoader:
    """Batches of a dataset, read by workers or in this process; resumable.

    Iteration starts with the first batch, so that an epoch set before it still counts. After
    ``load_state_dict`` it yields what would have come next.
    """

    def __init__(
        self,
        title: str,
        reader: Reader,
        turns: Turns,
        *,
        seed: Sequence[int] = (0,),
        num_workers: int = 0,
        pin_memory: bool = False,
        skip_broken: bool = False,
    ) -> None:
        """Set up; no worker starts yet.

        Args:
            title: name of the stream in messages.
            reader: source of samples.
            turns: samples and their order.
            seed: numbers that identify the stream. Workers seed their random generators with it,
                so transforms that use these give different results in a resumed run; the datasets
                of rscd seed theirs with the sample index.
            num_workers: reader processes; 0 reads in this process.
            pin_memory: for faster copies to a GPU.
            skip_broken: skip unreadable samples and count them in ``skipped``; otherwise the first
                one ends the run. If a whole training batch is unreadable, a readable batch is
                repeated, because all processes must see the announced number.
        """
        self.title = title
        self.batch_sampler = turns
        self.skip_broken = skip_broken
        self.skipped: Counter[str] = Counter()
        self._served = 0
        self._begun: tuple[int, int] | None = None
        self._resume: Mapping[str, int] | None = None
        state = np.random.SeedSequence(tuple(seed)).generate_state(1)
        self._loader = DataLoader(
            reader,
            batch_sampler=cast(Any, turns),
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            worker_init_fn=_begin_worker,
            # a separate generator: otherwise every pass would advance the global one
            generator=torch.Generator().manual_seed(int(state[0])),
        )

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Sample]:
        """Start a pass: the next of this epoch, or the first of a new one."""
        return self._pass()

    def state_dict(self) -> dict[str, int]:
        """Position of the stream: epoch, pass within it, and number of batches yielded."""
        epoch, turn = self._begun or (self.batch_sampler.epoch, 0)
        return {"epoch": epoch, "turn": turn, "served": self._served}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue after that position if the next epoch set is the same, else at its beginning."""
        self._resume = dict(state)

    def close(self) -> None:
        """Stop the workers; a later pass starts new ones.

        If left to the garbage collector, each can take five seconds to stop.
        """
        iterator, self._iterator = self._iterator, None
        if iterator is not None and self._loader.num_workers:
            iterator._shutdown_workers()

    @property
    def _iterator(self) -> Any:
        """The iterator over workers, where Lightning expects it when a run fails."""
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self._loader._iterator = iterator

    def _pass(self) -> Iterator[Sample]:
        turns = self.batch_sampler
        turn, skip = self._place()
        self._begun, self._served = (turns.epoch, turn), skip
        turns.turn, turns.skip = turn, skip
        last, owed = None, 0
        for batch, failures in self._loader:
            self._served += 1
            self._meet(failures)
            if batch is not None:
                last = unpack(batch)
            owed += batch is not None or turns.training
            while owed and last is not None:
                yield last
                owed -= 1
        if last is None and not skip:
            raise DataError(
                f"{self.title}: expected at least one sample that can be read, found none; see the "
                "warnings above"
            )

    def _place(self) -> tuple[int, int]:
        """Current pass and number of batches to skip."""
        epoch, resume = self.batch_sampler.epoch, self._resume
        self._resume = None
        if resume is not None and resume["epoch"] == epoch:
            return resume["turn"], resume["served"]
        if self._begun is not None and self._begun[0] == epoch:
            return self._begun[1] + 1, 0
        return 0, 0

    def _meet(self, failures: Sequence[Failure]) -> None:
        for failure in failures:
            if not (self.skip_broken and failure.skippable):
                raise DataError(f"{self.title}, {failure.name}: {failure.reason}")
            if failure.name not in self.skipped:
                log.warning("%s, %s is skipped: %s", self.title, failure.name, failure.reason)
            self.skipped[failure.name] += 1


def _begin_worker(_worker: int) -> None:
    import cv2

    cv2.setNumThreads(0)  # with many workers, threads within each only compete for cores
