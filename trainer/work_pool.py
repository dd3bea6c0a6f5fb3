"""Work over processes that outlives every single piece of it.

`run_all` gives each item to a process and yields what came back in the order of completion; a piece that
kills its process (a decoder that crashes) is tried once more alone, and reported if it does so again. It
knows nothing of what the work is. Results leave as (item, result) pairs.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from multiprocessing import get_context
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Died:
    """In place of a result: the process that worked on the item died, twice."""


def run_all(
    items: Iterable[Item],
    work: Callable[[Item], Result],
    jobs: int,
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Iterator[tuple[Item, Result | Died]]:
    """Yields (item, work(item)) as they are finished, `jobs` at a time.

    work and initializer must be importable functions; what they raise is raised here.
    """
    waiting = iter(items)
    suspects: list[Item] = []
    while (item := next(waiting, None)) is not None:
        first = chain((item,), waiting)
        with ProcessPoolExecutor(jobs, get_context("spawn"), initializer, initargs) as pool:
            yield from _until_broken(pool, first, work, jobs, suspects)
    for item in suspects:
        with ProcessPoolExecutor(1, get_context("spawn"), initializer, initargs) as pool:
            future = pool.submit(work, item)
            died = isinstance(future.exception(), BrokenProcessPool)
            yield item, Died() if died else future.result()


def run_in_order(
    pool: Executor, work: Callable[..., Result], items: Iterable[tuple[Any, ...]], ahead: int
) -> Iterator[Result]:
    """Yields work(*item) in the order of the items; at most `ahead` results wait to be taken."""
    running: deque[Future[Result]] = deque()
    for item in items:
        running.append(pool.submit(work, *item))
        if len(running) >= ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _until_broken(
    pool: ProcessPoolExecutor,
    waiting: Iterator[Item],
    work: Callable[[Item], Result],
    jobs: int,
    suspects: list[Item],
) -> Iterator[tuple[Item, Result]]:
    """Works until nothing waits, or a process has died: what ran then is added to the suspects."""
    running: dict[Future[Result], Item] = {}
    broken = False
    while True:
        while not broken and len(running) < jobs and (item := next(waiting, None)) is not None:
            try:
                running[pool.submit(work, item)] = item
            except BrokenProcessPool:
                suspects.append(item)
                broken = True
        if not running:
            return
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            item = running.pop(future)
            if isinstance(future.exception(), BrokenProcessPool):
                suspects.append(item)
                broken = True
            else:
                yield item, future.result()
