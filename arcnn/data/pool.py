"""The work of a data set in several processes, the same for any number of them."""

import contextlib
import functools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def ordered_pool(workers: int, chunksize: int = 1) -> Iterator[Callable]:
    """A ``map`` that keeps the order of its jobs, over that many processes (1: in this one)."""
    if workers <= 1:
        yield map
        return
    # Not "fork": a notebook kernel has threads, and a forked copy of a held lock never opens.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["arcnn.data"])  # imported once, not per worker
    with ProcessPoolExecutor(workers, context) as executor:
        try:
            yield functools.partial(executor.map, chunksize=chunksize)
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
