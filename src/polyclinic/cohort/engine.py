"""Who reads the files: this process, a pool of processes, or a Ray cluster; the functions and their order are the same."""

from __future__ import annotations

import logging
import os
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any, Literal

from ..schema import MissingExtraError
from .parts import CohortError

Engine = Literal["processes", "ray"]
Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""A `map`: the answers come in the order of the questions."""


@contextmanager
def engine(kind: Engine, workers: int) -> Iterator[Each]:
    """A `map` that one or several workers share.

    Args:
        kind: `processes` of this machine, or `ray`: the cluster that RAY_ADDRESS names, else one started here. The workers of
            a cluster see the same folders under the same names.
        workers: how many.
    """
    if kind == "ray":
        with _ray(workers) as each:
            yield each
    elif workers == 1:
        yield map
    else:
        with _processes(workers) as each:
            yield each


@contextmanager
def _processes(workers: int) -> Iterator[Each]:
    spawn = get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=spawn, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        try:
            yield partial(pool.map, chunksize=8)
        except BrokenProcessPool as error:
            raise CohortError(
                "a reading process that was killed, perhaps for want of memory", "room for each worker's largest file",
                "run the same command again with fewer workers: what was read is kept",
            ) from error  # fmt: skip
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _ray(workers: int) -> Iterator[Each]:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray", "cluster") from error
    mine = not ray.is_initialized()
    if mine:
        own = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
        ray.init(**own, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    shown, kept = context.enable_progress_bars, context.execution_options.preserve_order
    context.enable_progress_bars, context.execution_options.preserve_order = False, True
    try:
        yield partial(_ray_map, workers)
    finally:
        context.enable_progress_bars, context.execution_options.preserve_order = shown, kept
        if mine:
            ray.shutdown()


BLOCK = 8
"""Files a Ray task: its answer is a block, which must be small enough to be held."""


def _ray_map(workers: int, function: Callable[[Any], Any], questions: Iterable[Any]) -> Iterator[Any]:
    """Over `ray.data`, with what is asked and answered as bytes: Arrow has no column for a record with its attributes."""
    import ray.data

    asked = [pickle.dumps(question) for question in questions]
    if not asked:
        return
    data = ray.data.from_items([{"asked": one} for one in asked], override_num_blocks=max(1, -(-len(asked) // BLOCK)))
    told = data.map(partial(_answer, function), compute=ray.data.TaskPoolStrategy(size=workers))
    for row in told.iter_rows():
        answer = pickle.loads(row["answer"])
        if isinstance(answer, BaseException):
            raise answer
        yield answer


def _answer(function: Callable[[Any], Any], row: dict[str, bytes]) -> dict[str, bytes]:
    try:
        answer = function(pickle.loads(row["asked"]))
    except Exception as error:  # raised where it was asked, in its own words and not in Ray's
        answer = error
    return {"answer": pickle.dumps(answer)}
