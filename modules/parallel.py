"""One worker pool with one progress bar, for the scripts that treat many files alike.

Processes are spawned on every platform (CUDA and OpenMP do not survive a fork), so `function`, its items and results
must be importable at module level and picklable.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tqdm import tqdm

from modules.errors import UserError

Item = TypeVar("Item")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class WorkerDied(UserError):
    """A worker process ended without an answer: out of memory, or killed from outside."""


def choose_workers(wanted: int, n_items: int) -> int:
    """How many processes to start: `wanted`, or one for each core where it is 0, but never more than items."""
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
    """Applies `function` to every item and yields (item, result) as they finish, below one progress bar.

    An exception that `function` raises is yielded in place of the result, and so is `WorkerDied` for what a dead worker
    leaves behind; the others go on. With one worker all runs in this process. Each worker gets an equal share of the
    cores for its own threads.

    Args:
        function: what to do with an item.
        items: all the work.
        workers: processes.
        initializer: called once in each worker before its first item.
        initargs: arguments of `initializer`.
        description: text before the bar.
        show: whether there is a bar; without it, whoever takes the results shows one.

    Raises:
        Exception: whatever `initializer` raises.
    """
    with tqdm(total=len(items), desc=description, unit="file", dynamic_ncols=True, disable=not (items and show)) as bar:
        runner = _run_here if workers <= 1 else _run_in_processes
        for item, result in runner(function, items, workers, initializer, initargs):
            bar.update()
            yield item, result


def _run_here(
    function: Callable, items: Sequence, workers: int, initializer: Callable | None, initargs: tuple
) -> Iterator[tuple[Any, Any]]:
    if initializer is not None and items:
        initializer(*initargs)
    for item in items:
        try:
            yield item, function(item)
        except Exception as error:
            yield item, error


def _run_in_processes(
    function: Callable, items: Sequence, workers: int, initializer: Callable | None, initargs: tuple
) -> Iterator[tuple[Any, Any]]:
    failure = None
    others = set(multiprocessing.active_children())
    with _threads_for(workers):
        pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), _start_worker, (initializer, initargs)
        )
        try:
            # A few items in flight for each worker: results stream back, and an interruption need not wait for all.
            queue, running = iter(items), {}
            _submit(pool, function, queue, running, 2 * workers)
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    item = running.pop(future)
                    error = future.exception()
                    if isinstance(error, BrokenProcessPool):
                        failure = failure or WorkerDied("a worker process died; it may have run out of memory")
                        yield item, failure
                    elif isinstance(error, _StartFailed):
                        raise error.reason
                    else:
                        yield item, error if error is not None else future.result()
                if failure is None:
                    failure = _submit(pool, function, queue, running, len(done))
            for item in queue:
                yield item, failure
        except BaseException:  # Ctrl-C, or the reader stopped asking: what is being worked on is given up
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _submit(
    pool: ProcessPoolExecutor, function: Callable, queue: Iterator, running: dict[Future, Any], count: int
) -> UserError | None:
    """Puts up to `count` more items to work; the error where the pool is broken already."""
    for _ in range(count):
        item = next(queue, _NOTHING)
        if item is _NOTHING:
            return None
        try:
            running[pool.submit(_guarded, function, item)] = item
        except BrokenProcessPool:
            failed: Future = Future()
            failed.set_exception(BrokenProcessPool())
            running[failed] = item
    return None


_NOTHING = object()
_start_error: Exception | None = None


class _StartFailed(Exception):
    """Carries what an initializer raised to the parent, instead of a dead pool without a reason."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


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
    """A killed parent cannot end its workers; without this they would wait for work for ever and hold their memory."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _guarded(function: Callable, item: Any) -> Any:
    if _start_error is not None:
        raise _StartFailed(_start_error)
    return function(item)


@contextlib.contextmanager
def _threads_for(workers: int) -> Iterator[None]:
    """While workers are started, their libraries see their share of the cores as the number of threads."""
    share = str(max(1, (os.cpu_count() or 1) // workers))
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, share))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
