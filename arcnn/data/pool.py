"""The work of a data set in several processes, the same for any number of them."""

import contextlib
import functools
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor


def default_workers() -> int:
    """One process per core that may be used; one alone where a plain script is run.

    New processes import the main module again. A notebook, an interpreter and ``python -m`` of the
    kit can take that; a script without ``if __name__ == "__main__"`` would start over in each one.
    """
    main = sys.modules["__main__"]
    if getattr(main, "__file__", None) and getattr(main, "__spec__", None) is None:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def ordered_pool(workers: int, chunksize: int = 1) -> Iterator[Callable]:
    """A ``map`` that keeps the order of its jobs, over that many processes (1: in this one)."""
    if workers <= 1:
        yield map
        return
    # Neither "fork": a notebook kernel has threads, and a forked copy of a held lock never opens;
    # nor "forkserver": its server outlives the work.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as executor:
        try:
            yield functools.partial(executor.map, chunksize=chunksize)
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
