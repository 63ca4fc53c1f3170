"""Run a function over tasks: on the cores of this computer, or, with Daft, on a Ray cluster.

A task names files and a function turns them into other files, so only names travel; whichever worker takes a task, the
same bytes come out. Python-heavy functions run in processes of their own; functions that spend their time in Arrow and
compiled kernels run in threads, where they share memory.
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
    """Where the work is done."""

    runner: Literal["native", "ray"] = "native"
    """native: the cores of this computer; ray: an existing Ray cluster that sees the same files."""
    ray_address: str | None = None
    """Address of the cluster's head, HOST:PORT; empty: the one that Ray finds."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Tasks at a time; empty: one for each core."""


class Engine:
    """The standard library's threads and processes, or Daft for a cluster, as the configuration says."""

    def __init__(self, config: EngineConfig) -> None:
        self._runner = config.runner
        self.workers = config.workers or os.cpu_count() or 1
        if config.runner == "ray":
            _connect(config.ray_address)
            _daft().set_runner_ray(address=config.ray_address, noop_if_initialized=True)

    def map(self, function: Callable[[T], R], tasks: Sequence[T], *, processes: bool) -> Iterator[R]:
        """Give the function's result for each task, in their order here, as they become ready on a cluster.

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
                return pickle.dumps((function(pickle.loads(task)), None))  # noqa: S301 - of this run, through memory
            except Exception as error:  # noqa: BLE001 - raised again below, where it is not lost
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
    """Let a worker end when the process that gives it work is gone, however it went.

    It opens its standard streams anew: a thread that draws progress may have held their locks when it was forked.
    """
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _daft() -> Any:
    os.environ["DO_NOT_TRACK"] = "1"  # before the import: nothing phones home
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    import daft

    return daft


def _connect(address: str | None) -> None:
    try:
        import ray
    except ImportError:
        raise ConfigError('runner ray: Ray is not installed; pip install "ibidem[ray]"') from None
    try:
        if address:  # Ray itself asks for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address=address or "auto", ignore_reinit_error=True, log_to_driver=False, namespace="ibidem")
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"runner ray: no cluster at {address or 'auto'} ({reason})") from None
