"""Run a function over tasks: on the cores of this computer, or on a Ray cluster.

A task names files and a function turns them into other files, so only names are transferred; the result does not depend
on which worker takes a task. Python-heavy functions run in separate processes; functions that spend their time in Arrow
and compiled kernels run in threads, where they share memory.
"""

import multiprocessing
import os
import pickle
import platform
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from ibidem import workfiles
from ibidem.config import configuration
from ibidem.errors import ConfigError
from ibidem.places import StorePath

T = TypeVar("T")
R = TypeVar("R")

_PER_CORE = 2
_NODE_S = 60
_BUCKET_PARTS = 2
"""Of the URL of a bucket: the protocol, and its name."""
_MOST_RETRIES = 5
"""How often a task runs again when its process or node is lost."""


@configuration
class EngineConfig:
    """Where the tasks run."""

    runner: Literal["native", "ray"] = "native"
    """native: the cores of this computer; ray: an existing Ray cluster, which reads and writes URLs of a store, or sees
    the same files by the same paths."""
    ray_address: str | None = None
    """Address of the cluster's head, HOST:PORT; if empty, the one that Ray finds."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Number of parallel tasks; if empty, one per core: of this computer, or of the whole cluster. On this computer,
    tasks that share the memory of the driver are at most as many as there are cores."""


def work_dir_of(output_dir: Path, work_dir: Path | None, config: EngineConfig) -> Path | None:
    """Return the folder for work files that are not beside the output; None: the current one.

    Args:
        output_dir: of the run.
        work_dir: as it was asked for; None: on a cluster, work files are at the store where the output is.
        config: where the tasks run.

    Raises:
        ConfigError: work files cannot be there.
    """
    if not isinstance(output_dir, StorePath):
        if isinstance(work_dir, StorePath):
            raise ConfigError(f"work_dir {work_dir}: it can be at a store only if output_dir is at one")
        return work_dir
    if work_dir is None and config.runner == "ray":
        around: Path = output_dir.parent
        if len(around.parts) < _BUCKET_PARTS:
            raise ConfigError(f"output_dir {output_dir}: no folder is around it for the work files; give --work-dir")
        return around
    return work_dir


class Engine:
    """Runs tasks in threads and processes of the standard library, or on a cluster."""

    def __init__(self, config: EngineConfig) -> None:
        self._limit = config.workers
        self._cluster = _connect(config.ray_address) if config.runner == "ray" else None

    @property
    def workers(self) -> int:
        """Number of tasks that run at a time, if there are enough."""
        if self._limit is not None:
            return self._limit
        cores = os.cpu_count() if self._cluster is None else int(self._cluster.cluster_resources().get("CPU", 1))
        return cores or 1

    def map(self, function: Callable[[T], R], tasks: Sequence[T], *, processes: bool) -> Iterator[R]:
        """Yield the result of each task: in task order locally, in completion order on a cluster.

        Raises:
            Exception: what the function raised, with the worker's traceback as a note.
        """
        if self._cluster is not None:
            yield from _map_on_cluster(self._cluster, function, tasks, self._limit)
            return
        workers = max(1, min(self.workers, len(tasks)))
        # more threads than cores would only hold more memory, here in the driver
        threads = min(workers, os.cpu_count() or 1)
        with _processes(workers) if processes and workers > 1 else ThreadPoolExecutor(threads) as pool:
            yield from pool.map(function, tasks)

    @contextmanager
    def working_in(self, folder: Path) -> Iterator[None]:
        """Let tasks exchange files through a folder during the block; of one at a store, no machine keeps copies.

        Raises:
            ConfigError: a machine of the cluster does not see the folder.
        """
        if not isinstance(folder, StorePath):
            self.check_seen([*folder.iterdir()])
        forget = partial(workfiles.forget, folder)
        self._on_each_machine(forget)  # a run that was killed left them
        try:
            yield
        finally:
            self._on_each_machine(forget)

    def check_seen(self, paths: Iterable[Path]) -> None:
        """Refuse paths of this machine that another machine of the cluster does not see.

        Raises:
            ConfigError: as said.
        """
        local = [path.absolute() for path in paths if not isinstance(path, StorePath)]
        for machine, unseen in self._on_each_machine(partial(_unseen, local)) if self._cluster is not None else ():
            if unseen:
                raise ConfigError(
                    f"{unseen[0]}: {machine} does not see it; give a disk that all machines share, or URLs"
                )

    def _on_each_machine(self, function: Callable[[], R]) -> list[R]:
        """Call a function once on each machine; those that are lost meanwhile say nothing."""
        if self._cluster is None:
            return [function()]
        return _call_on_nodes(self._cluster, function)


def _processes(workers: int) -> ProcessPoolExecutor:
    import pyarrow as pa

    pa.array(())  # its first array imports pandas, where that is installed: once here, instead of in each worker
    return ProcessPoolExecutor(workers, initializer=_begin_work)


def _map_on_cluster(ray: Any, function: Callable[[T], R], tasks: Sequence[T], limit: int | None) -> Iterator[R]:
    """Yield results as they are ready; a task whose node is lost runs again on another.

    Twice as many tasks as there are cores wait on the cluster, so that no core waits and memory stays bounded.
    """
    remote = ray.remote(num_cpus=1, max_retries=_MOST_RETRIES)(_call)
    shared, folder = ray.put(pickle.dumps(function)), str(Path.cwd())
    waiting: set[Any] = set()
    left = iter(tasks)
    try:
        while True:
            most = limit or _PER_CORE * max(1, int(ray.cluster_resources().get("CPU", 1)))
            more = islice(left, max(0, most - len(waiting)))
            waiting.update(remote.remote(folder, shared, pickle.dumps(task)) for task in more)
            if not waiting:
                return
            ready, _ = ray.wait([*waiting], num_returns=1)
            waiting.difference_update(ready)
            for content in ray.get(ready):
                result, error = pickle.loads(content)  # noqa: S301 - from this run, in memory
                if error is not None:
                    raise error
                yield result
    finally:
        for task in waiting:
            ray.cancel(task)


def _call_on_nodes(ray: Any, function: Callable[[], R]) -> list[R]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    content, nodes = pickle.dumps(function), [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    remote = ray.remote(num_cpus=0, max_retries=0)(_call_alone)
    there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    waiting = [remote.options(scheduling_strategy=each).remote(content) for each in there]
    results = []
    for each in waiting:
        with suppress(ray.exceptions.RayError):
            results.append(pickle.loads(ray.get(each, timeout=_NODE_S)))  # noqa: S301 - from this run, in memory
    return results


def _call_alone(function: bytes) -> bytes:
    return pickle.dumps(pickle.loads(function)())  # noqa: S301 - from this run, in memory


def _unseen(paths: Sequence[Path]) -> tuple[str, list[Path]]:
    """Return the name of this machine, and the paths that are not there."""
    return platform.node(), [path for path in paths if not path.exists()]


def _call(folder: str, function: bytes, task: bytes) -> bytes:
    with suppress(OSError):  # where the driver's folder is not seen, absolute paths may still be
        os.chdir(folder)
    try:
        return pickle.dumps((pickle.loads(function)(pickle.loads(task)), None))  # noqa: S301 - from this run, in memory
    except Exception as error:  # noqa: BLE001 - raised again in the driver
        error.add_note(traceback.format_exc())
        return pickle.dumps((None, error))


def _begin_work() -> None:
    """Make a worker exit when its parent process is gone, for whatever reason.

    Reopens the standard streams: a thread that draws progress may have held their locks at the time of the fork.
    """
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _connect(address: str | None) -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigError('runner ray: Ray is not installed; pip install "ibidem[ray]"') from None
    try:
        if address:  # Ray itself retries for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=5).close()
        if not ray.is_initialized():
            ray.init(address=address or "auto", log_to_driver=False, namespace="ibidem")
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        if not address:
            raise ConfigError("runner ray: Ray finds no cluster here; give --ray-address HOST:PORT") from None
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"runner ray: no cluster at {address} ({reason})") from None
    return ray
