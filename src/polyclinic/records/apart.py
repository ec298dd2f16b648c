"""A decoder in a process of its own, with bounded memory and time: what a hostile file does to it stays there.

Two libraries need it. HDF5 breaks off the whole process on some damaged files, and `python_calamine` on a sheet with one cell
in its last row and column. A decoder is a file of generator functions that imports nothing of polyclinic: it starts at once.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MOST_MEMORY, MOST_SECONDS = 3 * 2**30, 600


@contextmanager
def decoded(decoder: str, function: str, *arguments: Any) -> Iterator[Iterator[Any]]:
    """What a decoder's function yields; its process ends when nobody listens any more.

    Args:
        decoder: the name of a file beside this one; its library is imported in the other process only.
        function: a generator function of it.
        arguments: what it is called with, as JSON can hold it.
    Raises:
        RecordError: while it is listened to: the decoder refused the file, or ended before it was through.
    """
    file = Path(__file__).with_name(f"{decoder}.py")
    command = [sys.executable, "-I", __file__, str(file), function, json.dumps(arguments)]
    # Threads of linear algebra set memory aside, a core each, which would count.
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=nowhere, stdout=subprocess.PIPE, stderr=nowhere, env=alone) as process:
        try:
            yield _listen(process)
        finally:
            process.kill()


def _listen(process: subprocess.Popen[bytes]) -> Iterator[Any]:
    from .source import RecordError  # the process apart has this file alone

    assert process.stdout is not None
    whole = ("a whole file", "open it with the program that wrote it, and save it again")
    while True:
        try:
            told, item = pickle.load(process.stdout)
        except (EOFError, pickle.UnpicklingError) as error:
            raise RecordError("a file whose decoder ended beyond its bounds of memory or time", *whole) from error
        if told == "error":
            raise (
                RecordError(*item) if len(item) == 3 else RecordError(f"a file that does not open ({item[0]})", *whole)
            )
        if told == "end":
            return
        yield item


def _bound() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits; a process that ends still ends alone
        return
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _work(file: str, function: str, arguments: list[Any]) -> None:
    say = lambda told, item: pickle.dump((told, item), sys.stdout.buffer, protocol=5)
    try:
        spec = importlib.util.spec_from_file_location(Path(file).stem, file)
        assert spec is not None
        assert spec.loader is not None
        decoder = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = decoder  # where its dataclasses look themselves up
        spec.loader.exec_module(decoder)
        for item in getattr(decoder, function)(*arguments):
            say("item", item)
        say("end", None)
    except Exception as error:
        told = len(error.args) == 3 and all(isinstance(part, str) for part in error.args)  # as a RecordError has them
        say("error", error.args if told else (type(error).__name__,))


if __name__ == "__main__":
    _bound()
    _work(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
