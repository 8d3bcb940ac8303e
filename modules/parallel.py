"""A pool of worker processes with one progress bar, for scripts that do the same to many files."""

import contextlib
import itertools
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tqdm import tqdm

from modules.errors import UserError

Item = TypeVar("Item")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class WorkerDied(UserError):
    """A worker process ended without a result: out of memory, or killed from outside."""


def choose_workers(wanted: int, n_items: int) -> int:
    """How many processes to start: `wanted`, or one per core where it is 0, but never more than items."""
    return max(1, min(wanted if wanted > 0 else os.cpu_count() or 1, n_items))


def run_pool(
    function: Callable[[Item], Any],
    items: Sequence[Item],
    workers: int,
    initializer: Callable[..., None] | None = None,
    initargs: tuple = (),
    description: str = "",
    show: bool = True,
) -> Iterator[tuple[Item, Any]]:
    """Yields (item, result) for every item, in the order in which they finish. One worker is this process.

    An exception of `function` is yielded in place of the result, and `WorkerDied` for the items that a dead worker
    leaves behind; the others go on. What `initializer` raises is raised here.
    """
    with tqdm(total=len(items), desc=description, unit="file", dynamic_ncols=True, disable=not (items and show)) as bar:
        if workers <= 1:
            if initializer is not None and items:
                initializer(*initargs)
            results = ((item, _attempt(function, item)) for item in items)
        else:
            results = _in_processes(function, items, workers, (initializer, initargs))
        with contextlib.closing(results):  # at once, wherever Ctrl-C falls: a traceback would keep the workers alive
            for pair in results:
                bar.update()
                yield pair


def watch(blocks: Iterable[Item], seconds: float | None, block_seconds: float, description: str) -> Iterable[Item]:
    """The blocks of one long sound, with a bar of their own once they take over 2 s; in a worker without one."""
    total = None if seconds is None else math.ceil(seconds / block_seconds)
    is_worker = multiprocessing.parent_process() is not None
    options = {"leave": False, "delay": 2, "dynamic_ncols": True, "disable": is_worker, "unit": "block"}
    return tqdm(blocks, description, total, **options)


def _attempt(function: Callable, item: Any) -> Any:
    if _start_error is not None:
        raise _StartFailed(_start_error)
    try:
        return function(item)
    except Exception as error:
        return error


def _in_processes(function: Callable, items: Sequence, workers: int, start: tuple) -> Iterator[tuple[Any, Any]]:
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # CUDA and OpenMP do not survive a fork
    with _thread_share(workers):
        pool = ProcessPoolExecutor(workers, context, _start_worker, start)
        try:
            queue, running = iter(items), {}
            while True:
                # A few items per worker and no more: finished results must not pile up faster than they are used.
                for item in itertools.islice(queue, 2 * workers - len(running)):
                    running[_submit(pool, function, item)] = item
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    item, error = running.pop(future), future.exception()
                    if isinstance(error, _StartFailed):
                        raise error.args[0]
                    if isinstance(error, BrokenProcessPool):
                        error = WorkerDied("a worker process died; it may have run out of memory")
                    yield item, error or future.result()
        except BaseException:  # Ctrl-C, or the reader stopped: give up what the workers are doing
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, function: Callable, item: Any) -> Future:
    """The result to come; a pool that is broken already gives one that has failed."""
    try:
        return pool.submit(_attempt, function, item)
    except BrokenProcessPool as error:
        failed = Future()
        failed.set_exception(error)
        return failed


_start_error: Exception | None = None  # of this worker's initializer


class _StartFailed(Exception):
    """Carries what an initializer raised to the parent: the executor alone would only say that the pool is broken."""


def _start_worker(initializer: Callable | None, initargs: tuple) -> None:
    global _start_error
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if initializer is not None:
            initializer(*initargs)
    except Exception as error:
        _start_error = error


def _end_with_parent() -> None:
    """A killed parent cannot end its workers; without this they would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


@contextlib.contextmanager
def _thread_share(workers: int) -> Iterator[None]:
    """Libraries read their number of threads when they are loaded, which is as a worker starts."""
    share = str(max(1, (os.cpu_count() or 1) // workers))
    before = {name: os.environ.pop(name, None) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, share))
    try:
        yield
    finally:
        for name in _THREAD_VARIABLES:
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if value is not None})
