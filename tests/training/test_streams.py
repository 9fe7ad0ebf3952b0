"""Orders, shares, collation and resumption of a single stream."""

import logging
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from rscd.base.errors import DataError
from rscd.synthetic.town_pairs import TownPairs
from rscd.training.streams import (
    Failure,
    Packed,
    Reader,
    Repeat,
    Share,
    StreamLoader,
    Turns,
    collate,
    order_of,
    pack,
    uncounted,
    unpack,
)


class Numbers(Dataset[dict[str, Any]]):
    """Samples that say which they are."""

    def __init__(self, count: int, broken: tuple[int, ...] = ()) -> None:
        self.count = count
        self.broken = broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self.broken:
            raise DataError(f"t1/{index}.png: cannot be read")
        return {
            "name": str(index),
            "image": torch.full((2, 1, 4, 4), float(index)),
            "mask": torch.full((1, 4, 4), index % 2),
            "label": torch.tensor(index % 2),
            "valid": torch.ones(1, 4, 4, dtype=torch.bool),
            "bounds": (0.0, 0.0, 4.0, float(index)),
        }


KEYS = frozenset({"image", "mask", "label", "valid"})


def loader(
    count: int = 10,
    batch_size: int = 3,
    *,
    training: bool = True,
    share: Share | None = None,
    broken: tuple[int, ...] = (),
    workers: int = 0,
    skip: bool = False,
    seed: int = 0,
) -> StreamLoader:
    dataset = Numbers(count, broken)
    turns = Turns(
        order_of(dataset, (seed,), shuffle=training), batch_size, share or Share(),
        training=training,
    )  # fmt: skip
    return StreamLoader("stream 'x'", Reader(dataset, KEYS), turns, num_workers=workers,
                        skip_broken=skip)  # fmt: skip


def names(stream: StreamLoader) -> list[list[str]]:
    return [batch["name"] for batch in stream]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_follows_seed_epoch_and_pass_alone(workers: int) -> None:
    first, second = loader(), loader(workers=workers)
    seen = []
    for epoch in (0, 1, 5):
        for stream in (first, second):
            stream.batch_sampler.set_epoch(epoch)
        for _ in range(2):  # two passes of one epoch
            a, b = names(first), names(second)
            assert a == b
            assert [len(batch) for batch in a] == [3, 3, 3]  # the tenth is left out
            assert len({n for batch in a for n in batch}) == 9
            seen.append(tuple(map(tuple, a)))
    assert len(set(seen)) == 6
    assert names(loader(seed=1)) != names(loader())
    fresh = loader()
    fresh.batch_sampler.set_epoch(5)
    assert tuple(map(tuple, names(fresh))) == seen[4]  # as if epochs 0 to 4 had been


def test_evaluation_reads_everything_in_order() -> None:
    stream = loader(training=False)
    for _ in range(2):
        assert names(stream) == [["0", "1", "2"], ["3", "4", "5"], ["6", "7", "8"], ["9"]]
    assert len(stream) == 4


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_stopped_stream_goes_on_with_the_next_batch(stop: int, workers: int) -> None:
    whole = loader()
    whole.batch_sampler.set_epoch(2)
    expected = names(whole) + names(whole)
    stopped = loader()
    stopped.batch_sampler.set_epoch(2)
    begun = iter(stopped)
    seen = [next(begun)["name"] for _ in range(stop)]
    state = stopped.state_dict()
    assert state == {"epoch": 2, "turn": 0, "served": stop}
    resumed = loader(workers=workers)
    resumed.load_state_dict(state)
    again = iter(resumed)  # Lightning begins before it tells the epoch
    resumed.batch_sampler.set_epoch(2)
    seen += [batch["name"] for batch in again] + names(resumed)
    assert seen == expected
    late = loader()
    late.load_state_dict(state)
    late.batch_sampler.set_epoch(3)  # the epoch had been over
    next_epoch = loader()
    next_epoch.batch_sampler.set_epoch(3)
    assert names(late) == names(next_epoch)


@given(count=st.integers(1, 40), world=st.integers(1, 4), size=st.integers(1, 7))
def test_shares_part_the_samples(count: int, world: int, size: int) -> None:
    for training in (True, False):
        seen: Counter[int] = Counter()
        repeats = 0
        lengths = set()
        for rank in range(world):
            turns = Turns(
                order_of(Numbers(count), (0,), shuffle=training), size, Share(rank, world),
                training=training,
            )  # fmt: skip
            batches = list(turns)
            lengths.add(len(batches))
            assert len(turns) == len(batches)
            for batch in batches:
                assert len(batch) <= size
                for item in batch:
                    if isinstance(item, Repeat):
                        repeats += 1
                    else:
                        seen[item] += 1
        assert len(lengths) == 1  # else processes wait for each other for ever
        assert all(times == 1 for times in seen.values())
        if not training:
            assert set(seen) == set(range(count))
            assert repeats < world


def test_repeats_do_not_count() -> None:
    sample = Reader(Numbers(4), KEYS)[Repeat(3)]
    assert isinstance(sample, dict)
    assert (sample["mask"] == 255).all()
    assert sample["label"] == 255
    assert not sample["valid"].any()
    assert (sample["image"] == 3).all()
    assert "valid" not in uncounted({"mask": torch.zeros(1, 2, 2, dtype=torch.int64)})


def test_the_reader_drops_what_was_not_asked_for() -> None:
    sample = Reader(Numbers(3), frozenset({"image"}))[1]
    assert isinstance(sample, dict)
    assert set(sample) == {"image", "name", "bounds"}


class Flows(Numbers):
    """Pairs with and without flow, in turn."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        known = torch.tensor(float(index % 2 == 0))
        return super().__getitem__(index) | {"flow": torch.zeros(2, 4, 4), "use_flow": known}


def test_zeros_in_place_of_an_unknown_flow_are_not_learned() -> None:
    unaware = Reader(Flows(2), frozenset({"image", "flow"}))
    assert not isinstance(unaware[0], Failure)
    failure = unaware[1]
    assert isinstance(failure, Failure)
    assert not failure.skippable
    assert "pair without (use_flow is 0); set method_args.use_flow: true" in failure.reason
    for keys in ({"image", "flow", "use_flow"}, {"image", "mask"}):
        assert isinstance(Reader(Flows(2), frozenset(keys))[1], dict)


def test_batches_stack_tensors_and_list_the_rest() -> None:
    (batch, *_) = loader(training=False)
    assert batch["image"].shape == (3, 2, 1, 4, 4)
    assert batch["mask"].shape == batch["valid"].shape == (3, 1, 4, 4)
    assert batch["label"].tolist() == [0, 1, 0]
    assert batch["bounds"] == [(0.0, 0.0, 4.0, float(i)) for i in range(3)]


@pytest.mark.parametrize(
    ("values", "dtype", "narrow"),
    [
        ([0, 255], torch.float32, torch.uint8),
        ([0, 256], torch.float32, torch.int16),
        ([-1, 3], torch.int64, torch.int16),
        ([0, 1, 255], torch.int64, torch.uint8),
        ([0.5, 3], torch.float32, None),
        ([0, 40_000], torch.float32, None),
        ([float("nan"), 3], torch.float32, None),
        ([float("inf"), 3], torch.float32, None),
        ([], torch.float32, None),
        ([1, 2], torch.float64, None),
    ],
)
def test_packing_loses_nothing(
    values: list[float], dtype: torch.dtype, narrow: torch.dtype | None
) -> None:
    tensor = torch.tensor(values, dtype=dtype)
    packed = pack(tensor)
    assert (packed.values.dtype if isinstance(packed, Packed) else None) == narrow
    again = unpack({"x": packed, "name": ["a"]})
    assert again["x"].dtype == dtype
    assert torch.equal(torch.nan_to_num(again["x"]), torch.nan_to_num(tensor))


@pytest.mark.parametrize("scale", [1.0, 0.5, 1000.0])
def test_batches_of_workers_equal_those_made_at_once(scale: float) -> None:
    class Scaled(Numbers):
        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = super().__getitem__(index)
            return {**sample, "image": sample["image"] * scale}

    dataset = Scaled(7)
    batches = []
    for workers in (0, 2):
        turns = Turns(order_of(dataset, (0,), shuffle=False), 3, Share(), training=False)
        batches.append(list(StreamLoader("x", Reader(dataset, KEYS), turns, num_workers=workers)))
    for a, b in zip(*batches, strict=True):
        for key in KEYS:
            assert a[key].dtype == b[key].dtype
            assert torch.equal(a[key], b[key])


def test_samples_of_different_shapes_are_not_padded() -> None:
    a = {"name": "a", "image": torch.zeros(2, 3, 8, 8)}
    b = {"name": "b", "image": torch.zeros(2, 3, 8, 9)}
    batch, (failure,) = collate([a, b])
    assert batch is None
    assert "found image (2, 3, 8, 9) beside (2, 3, 8, 8) of a" in failure.reason
    assert not failure.skippable
    batch, (failure,) = collate([a, {**a, "mask": torch.zeros(1, 8, 8)}])
    assert "found mask (1, 8, 8) beside absent" in failure.reason


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_stops_the_run_with_its_name(workers: int) -> None:
    with pytest.raises(DataError, match=r"^stream 'x', sample 4: t1/4\.png: cannot be read$"):
        names(loader(training=False, broken=(4,), workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_are_skipped_and_counted_when_asked(
    workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    stream = loader(training=False, broken=(0, 1, 2, 4), workers=workers, skip=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert names(stream) == [["3", "5"], ["6", "7", "8"], ["9"]]
    assert stream.skipped.total() == 8
    assert stream.skipped["sample 4"] == 2
    assert sum("sample 4 is skipped: t1/4.png" in r.getMessage() for r in caplog.records) == 1


@pytest.mark.parametrize("broken", [(0, 1, 2), (3, 4, 5), (0, 1, 2, 6, 7, 8)])
def test_training_gives_as_many_batches_as_it_said(broken: tuple[int, ...]) -> None:
    """Else Lightning waits for the last one, and never validates."""
    stream = loader(9, training=True, broken=broken, batch_size=1, skip=True)
    for _ in range(2):
        read = [name for (name,) in names(stream)]
        assert len(read) == len(stream) == 9
        assert set(read) == set(map(str, range(9))) - set(map(str, broken))


def test_a_stream_of_which_nothing_can_be_read_ends_the_run() -> None:
    with pytest.raises(DataError, match="expected at least one sample that can be read"):
        names(loader(3, training=False, broken=(0, 1, 2), skip=True))


def test_shape_mistakes_are_never_skipped() -> None:
    class Odd(Numbers):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"image": torch.zeros(2, 1, 4, 4 + index)}

    dataset = Odd(2)
    turns = Turns(order_of(dataset, (0,), shuffle=False), 2, Share(), training=False)
    stream = StreamLoader("stream 'x'", Reader(dataset, KEYS), turns, skip_broken=True)
    with pytest.raises(DataError, match="expected samples of one shape"):
        list(stream)


def test_programming_errors_keep_their_trace() -> None:
    class Wrong(Numbers):
        def __getitem__(self, index: int) -> dict[str, Any]:
            raise KeyError(index)

    with pytest.raises(KeyError):
        Reader(Wrong(1), KEYS)[0]
    assert isinstance(Reader(Numbers(1, (0,)), KEYS)[0], Failure)


def test_endless_datasets_go_on_in_every_pass() -> None:
    towns = TownPairs(length=5, patch_size=16)
    order = order_of(towns, (0,), shuffle=True)
    seen = [number for epoch in range(3) for turn in range(3) for number in order(epoch, turn)]
    assert len(set(seen)) == 45
    assert list(order(0, 0)) == [0, 1, 2, 3, 4]
    assert list(order_of(towns, (0,), shuffle=False)(7, 1)) == [0, 1, 2, 3, 4]
    again = order_of(TownPairs(length=5, patch_size=16, fresh=False), (0,), shuffle=True)
    assert sorted(again(3, 1)) == [0, 1, 2, 3, 4]


def test_mistakes_are_named() -> None:
    with pytest.raises(DataError, match="apply to georeferenced scenes"):
        order_of(Numbers(3), (0,), shuffle=True, patch_size=64)

    class Lengthless(Dataset[Any]):
        pass

    with pytest.raises(DataError, match="a dataset with a length"):
        order_of(Lengthless(), (0,), shuffle=True)
