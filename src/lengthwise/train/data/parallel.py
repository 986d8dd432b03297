"""One function over many tasks: here, in processes, or on Ray."""

import os
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def each(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int, ray: bool = False
) -> Iterator[Result]:
    """Results in the order of the tasks; no more than a few tasks wait at any time.

    Args:
        function: Can be pickled, as tasks and results can, unless one worker does all.
        workers: Processes; 1 works in this one.
        ray: Use Ray Data instead, on the cluster that is running or on this machine.

    Raises:
        Exception: What the function raised; nothing more is begun.
        MemoryError: If a worker was killed.
    """
    if ray:
        return _on_ray(function, tasks)
    if workers == 1:
        return map(function, tasks)
    return _in_processes(function, tasks, workers)


def _in_processes(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Iterator[Result]:
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    # Not fork: it copies locks that other threads hold, and the lock on the output.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin_worker)
    waiting: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise MemoryError("a worker process was killed; try fewer --workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    import signal
    from multiprocessing import parent_process

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that we work for
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    # kill -9 leaves workers waiting for ever on a pipe that they hold open themselves.
    threading.Thread(target=follow, daemon=True).start()


def _on_ray(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
    try:
        import ray
    except ImportError:
        raise ValueError("--ray needs Ray: pip install 'ray[data]'") from None

    if not ray.is_initialized():
        _start(ray)
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.data.DataContext.get_current().execution_options.preserve_order = True

    def work(row: dict[str, Any]) -> dict[str, Any]:
        try:
            done: Any = function(pickle.loads(row["task"]))
        except Exception as error:  # as it is, not wrapped in Ray's own
            done = error
        return {"done": pickle.dumps(done)}

    items = [{"task": pickle.dumps(task)} for task in tasks]
    if not items:
        return
    # One task a block, so that each can go to another machine.
    results = ray.data.from_items(items, override_num_blocks=len(items)).map(work)
    for row in results.iter_rows():
        done = pickle.loads(row["done"])
        if isinstance(done, Exception):
            raise done
        yield done


def _start(ray: Any) -> None:
    import logging

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # "auto" joins a cluster that RAY_ADDRESS names; without one Ray starts on this machine.
    ray.init(
        address=os.environ.get("RAY_ADDRESS"),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
