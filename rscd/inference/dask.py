"""Blocks of a scene on a cluster: a `rscd.inference.tiled.Mapper` over `distributed`.

Pixels do not travel to the workers, which read the rasters themselves. What is computed (the pair,
the fitted model) travels once per worker and pass; a block is a few numbers. Networks are sent
without their weights, which travel once in the life of a worker: a plugin brings them, and the
scheduler gives it to workers that join or restart later as well.
"""

import io
import logging
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle
import rasterio
from distributed import (
    CancelledError,
    Client,
    KilledWorker,
    LocalCluster,
    Worker,
    WorkerPlugin,
    get_worker,
)
from distributed.comm import CommClosedError

from rscd.base.border import border, reason
from rscd.base.errors import RscdError, SceneError, UsageError
from rscd.base.files import appearing
from rscd.base.version import version
from rscd.geo.source import Source, stamp_of
from rscd.inference.cores import network_threads, usable_cores
from rscd.inference.file_model import FileModel
from rscd.inference.memory import GDAL_CACHE
from rscd.inference.tiled import JobLost, Mapper, bounded_map

PER_THREAD = 2
"""Blocks in flight per thread of the cluster: one computed, one waiting or on its way back."""
LEAST_IN_FLIGHT = 4
"""Blocks in flight while a cluster has hardly a worker: a queue is what makes it grow."""
CONNECT_S = 20
"""Time limit in seconds for reaching a scheduler."""
CLOCK_NS = 2_000_000_000
"""File systems shared by machines report times of a file that differ by less than this."""

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)


@contextmanager
def cluster_mapper(where: str) -> Iterator[Mapper]:
    """A mapper over the cluster that ``--dask`` names.

    Args:
        where: address of a scheduler (``tcp://HOST:8786``), or ``local`` or ``local:N`` for N
            worker processes of one thread on this machine (default: one per core).

    Raises:
        UsageError: neither.
        RscdError: no scheduler answers at the address.
    """
    kind, _, number = where.partition(":")
    local = where == "local" or (kind == "local" and number.isdigit() and int(number) > 0)
    if not local and "://" not in where:
        raise UsageError(
            f"expected --dask local, local:N or the address of a scheduler, found {where!r}; "
            "give, for example, tcp://HOST:8786"
        )
    with ExitStack() as stack:
        with border(lambda error: _unreached(where, error)):
            place: LocalCluster | str = where
            if local:
                n_workers = int(number or usable_cores())
                # any free port: a second cluster must not warn of the first one's
                cluster = LocalCluster(
                    n_workers=n_workers, threads_per_worker=1, dashboard_address=":0"
                )
                place = stack.enter_context(cluster)
            client = stack.enter_context(Client(place, timeout=CONNECT_S))
            threads = client.nthreads()
        log.info("cluster: %d workers, %d threads", len(threads), sum(threads.values()))
        yield dask_mapper(client)


def dask_mapper(client: Client) -> Mapper:
    """A mapper that carries blocks out on the workers of a cluster.

    Scheduler and workers need the same version of rscd; workers must see the rasters under the same
    paths or addresses. A worker that dies costs the blocks it held, which others then take.

    Args:
        client: of any `distributed` cluster, not asynchronous.

    Returns:
        The mapper, for ``predict(..., mapper=dask_mapper(client))``. It gives what the builtin
        ``map`` gives, in the same order, with a bounded number of blocks in flight, and raises what
        the computation raises; `RscdError` where the cluster fails.
    """
    return partial(_mapped, client)


def _mapped(client: Client, function: Callable[[T], R], jobs: Iterable[T], /) -> Iterator[R]:
    packed, weights = pack(function)

    def in_flight() -> int:
        threads: int = sum(client.nthreads().values())
        return max(LEAST_IN_FLIGHT, PER_THREAD * threads)

    try:
        for name, path in weights.items():
            client.register_plugin(Weights(name, path.read_bytes()))
        pool = _Workers(client, client.submit(Work, version(), packed, pure=False))
        yield from bounded_map(pool, in_flight, function, jobs)
    except (KilledWorker, CancelledError, CommClosedError) as error:
        raise (JobLost if isinstance(error, KilledWorker) else RscdError)(
            f"expected the cluster to carry out every block, found: {reason(error)}; see the logs "
            "of the workers (memory?), and repeat the command: it resumes"
        ) from error


def _unreached(where: str, error: Exception) -> RscdError:
    return RscdError(
        f"expected a Dask cluster at --dask {where}, found none ({reason(error)}); start one with "
        "dask scheduler and dask worker, or give --dask local"
    )


@dataclass(frozen=True)
class Work:
    """What is done with every block of a pass; kept by the workers until the pass is over."""

    version: str
    """Of rscd, where it was packed."""
    packed: bytes
    """See `pack`."""


@dataclass(frozen=True)
class _Workers(Executor):
    """The cluster as a pool that runs one function only."""

    client: Client
    work: Any
    """Future of a `Work` on the cluster, which workers fetch from each other once."""

    def submit(self, _: Callable[..., R], /, *jobs: Any, **__: Any) -> Future[R]:
        """Run the function that the workers have already."""
        future: Future[R] = self.client.get_executor(pure=False).submit(run_job, self.work, *jobs)
        return future


def run_job(work: Work, job: Any) -> Any:
    """Carry out one job; runs on a worker.

    Raises:
        RscdError: the worker has another version of rscd; and what the work raises.
    """
    if work.version != version():
        raise RscdError(
            f"expected rscd {work.version} on every worker, found {version()} on "
            f"{get_worker().address}; install the same version there"
        )
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE):
        return _unpacked(work.packed)(job)


@lru_cache(maxsize=4)
def _unpacked(packed: bytes) -> Callable[[Any], Any]:
    function: Callable[[Any], Any] = pickle.loads(packed)
    return function


def pack(function: Callable[..., Any]) -> tuple[bytes, dict[str, Path]]:
    """A function as bytes for workers with other folders and files.

    Returns:
        The pickle, in which rasters have absolute paths and networks no path; and the weights files
        that these networks need, by the name under which `Weights` brings them.
    """
    packed = io.BytesIO()
    packer = _Packer(packed)
    packer.dump(function)
    return packed.getvalue(), packer.weights


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles everything as usual but what depends on files of this machine."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.weights: dict[str, Path] = {}

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, FileModel):
            name = f"{obj.sha256}{obj.path.suffix}"
            self.weights[name] = obj.path
            return _network, (type(obj), name, vars(obj))
        if isinstance(obj, Source) and isinstance(obj.stamp, tuple):
            return _source, (vars(obj) | {"path": str(Path(obj.path).absolute())},)
        return super().reducer_override(obj)


def _network(kind: type[FileModel], name: str, fields: dict[str, Any]) -> FileModel:
    """A network with the weights file that a worker was given."""
    worker = get_worker()
    threads = network_threads(worker.state.nthreads)
    return kind(**fields | {"path": weights_folder(worker) / name, "threads": threads})


def _source(fields: dict[str, Any]) -> Source:
    """A raster, if a worker sees the same file.

    Raises:
        SceneError: it sees another one or none.
    """
    source, here = Source(**fields), stamp_of(fields["path"])
    if not _same_file(source.stamp, here):
        raise SceneError(
            f"expected {source.path} on worker {get_worker().address} as it is here, found "
            f"{'none' if here is None else 'another file'}; use a folder that all machines share, "
            "or addresses (https://, /vsis3/...)"
        )
    return source


def _same_file(there: object, here: object) -> bool:
    match there, here:
        case (int(when), int(size)), (int(other), int(found)):
            return size == found and abs(when - other) <= CLOCK_NS
    return False


def weights_folder(worker: Worker) -> Path:
    """Where a worker keeps the weights it was given; goes with the worker."""
    return Path(worker.local_directory) / "rscd-weights"


class Weights(WorkerPlugin):  # type: ignore[misc]
    """Brings a weights file to every worker of a cluster, once."""

    idempotent = True

    def __init__(self, name: str, content: bytes) -> None:
        """A file by its name, which identifies the content, and its content."""
        self.name = f"rscd-weights-{name}"
        self.file = name
        self.content = content

    def setup(self, worker: Worker) -> None:
        """Store the file where `weights_folder` says."""
        path = weights_folder(worker) / self.file
        path.parent.mkdir(exist_ok=True)
        with appearing(path) as part:
            part.write_bytes(self.content)
        self.content = b""  # the worker keeps its plugins
