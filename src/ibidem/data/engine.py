"""Run a function over tasks: on the cores of this computer, or with Daft on a Ray cluster.

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
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from ibidem.config import configuration
from ibidem.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")


@configuration
class EngineConfig:
    """Where the tasks run."""

    runner: Literal["native", "ray"] = "native"
    """native: the cores of this computer; ray: an existing Ray cluster that sees the same files."""
    ray_address: str | None = None
    """Address of the cluster's head, HOST:PORT; if empty, the one that Ray finds."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Number of parallel tasks; if empty, one per core."""


class Engine:
    """Runs tasks in threads and processes of the standard library, or with Daft on a cluster."""

    def __init__(self, config: EngineConfig) -> None:
        self._runner = config.runner
        self.workers = config.workers or os.cpu_count() or 1
        if config.runner == "ray":
            _connect(config.ray_address)
            _daft().set_runner_ray(address=config.ray_address, noop_if_initialized=True)

    def map(self, function: Callable[[T], R], tasks: Sequence[T], *, processes: bool) -> Iterator[R]:
        """Yield the result of each task: in task order locally, in completion order on a cluster.

        Raises:
            Exception: what the function raised, with the worker's traceback as a note.
        """
        workers = max(1, min(self.workers, len(tasks)))
        if self._runner == "native":
            pool = (
                ProcessPoolExecutor(workers, initializer=_begin_work)
                if processes and workers > 1
                else ThreadPoolExecutor(workers)
            )
            with pool:
                yield from pool.map(function, tasks)
            return
        if not tasks:
            return
        daft = _daft()

        def call(task: bytes) -> bytes:
            try:
                return pickle.dumps((function(pickle.loads(task)), None))  # noqa: S301 - from this run, in memory
            except Exception as error:  # noqa: BLE001 - raised again below
                error.add_note(traceback.format_exc())
                return pickle.dumps((None, error))

        class Worker:
            def __call__(self, task: bytes) -> bytes:
                return call(task)

        run = daft.cls(Worker, max_concurrency=workers, use_process=processes)()
        frame = daft.from_pydict({"task": [pickle.dumps(task) for task in tasks]})
        for row in frame.into_batches(1).select(run(daft.col("task")).alias("result")).iter_rows():
            result, error = pickle.loads(row["result"])  # noqa: S301
            if error is not None:
                raise error
            yield result


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


def _daft() -> Any:
    os.environ["DO_NOT_TRACK"] = "1"  # before the import, to disable telemetry
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    import daft

    return daft


def _connect(address: str | None) -> None:
    try:
        import ray
    except ImportError:
        raise ConfigError('runner ray: Ray is not installed; pip install "ibidem[ray]"') from None
    try:
        if address:  # Ray itself retries for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address=address or "auto", ignore_reinit_error=True, log_to_driver=False, namespace="ibidem")
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"runner ray: no cluster at {address or 'auto'} ({reason})") from None
