"""Run a function over tasks: on the cores of this computer, or on a Ray cluster.

A task names files and a function turns them into other files, so only names are transferred; the result does not depend
on which worker takes a task. Python-heavy functions run in separate processes; functions that spend their time in Arrow
and compiled kernels run in threads, where they share memory.
"""

import multiprocessing
import os
import pickle
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from ibidem.config import configuration
from ibidem.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")

_PER_CORE = 2
_MOST_RETRIES = 5
"""How often a task runs again when its process or node is lost."""


@configuration
class EngineConfig:
    """Where the tasks run."""

    runner: Literal["native", "ray"] = "native"
    """native: the cores of this computer; ray: an existing Ray cluster that sees the same files, by the same paths."""
    ray_address: str | None = None
    """Address of the cluster's head, HOST:PORT; if empty, the one that Ray finds."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Number of parallel tasks; if empty, one per core: of this computer, or of the whole cluster. On this computer,
    tasks that share the memory of the driver are at most as many as there are cores."""


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
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"runner ray: no cluster at {address or 'auto'} ({reason})") from None
    return ray
