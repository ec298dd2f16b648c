"""What every command has: `--json`, `--debug`, one way to say what went wrong, exit codes, progress on stderr."""

from __future__ import annotations

import errno
import inspect
import json
import logging
import math
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_type_hints

import typer

from ..schema import PolyclinicError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
EXIT_CODES = "0 done, 1 could not be done, 2 wrong usage, 130 interrupted"

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; messages and progress go to stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", hidden=True)]
Report = Callable[[int, int, str], None]
LAUNCHER = "lightning_fabric.utilities.rank_zero"
"""Tells the precision at each training, between two lines of progress."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a command answers: as data for `--json`, and as parts to be printed for a person."""

    data: Mapping[str, Any]
    shown: Sequence[Any] = ()


def command(function: Callable[..., Reply]) -> Callable[..., None]:
    """A command that answers a `Reply`: adds `--json` and `--debug`, prints, and turns errors into exit codes."""
    own = inspect.signature(function)
    hints = get_type_hints(function, include_extras=True)
    parameters = [p.replace(annotation=hints[name]) for name, p in own.parameters.items()]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("as_json", Json), ("debug", Debug))
    ]

    @wraps(function)
    def wrapped(*args: Any, as_json: bool = False, debug: bool = False, **options: Any) -> None:
        try:
            with nullcontext() if debug else warnings.catch_warnings(), redirect_stdout(sys.stderr):
                if not debug:
                    warnings.simplefilter("ignore")
                    logging.getLogger(LAUNCHER).setLevel(logging.WARNING)
                reply = function(*args, **options)
        except (typer.Exit, typer.BadParameter, typer.Abort, BrokenPipeError):
            raise
        except (Exception, KeyboardInterrupt) as error:
            _fail(error, as_json, debug)
        print_reply(reply, as_json)

    wrapped.__signature__ = own.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def files_in(given: Sequence[Path]) -> list[Path]:
    """The files that were given, and of a folder those that lie in it, by name."""
    return [p for g in given for p in (sorted(q for q in g.iterdir() if q.is_file()) if g.is_dir() else [g])]


def print_reply(reply: Reply, as_json: bool) -> None:
    """The reply on stdout, as one JSON object or for a person."""
    if as_json:
        typer.echo(json.dumps(plain(reply.data), ensure_ascii=False, allow_nan=False))
        return
    from rich.console import Console

    # What goes into a file or another program is not folded to a window's width.
    console = Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200)
    for part in reply.shown:
        # A line of text is never folded: it may be JSON or YAML.
        console.print(part, markup=False, soft_wrap=True) if isinstance(part, str) else console.print(part)


def _fail(error: BaseException, as_json: bool, debug: bool) -> NoReturn:
    """Say what went wrong and leave with the exit code; never returns."""
    code = FAILED
    if isinstance(error, KeyboardInterrupt):
        code = INTERRUPTED
        error = PolyclinicError("stopped", "", "run the same command again: what was finished is kept")
    elif (
        isinstance(error, PolyclinicError) and type(error).__name__ == "InterruptedRunError"
    ):  # by name: its room imports torch
        code = INTERRUPTED
    elif isinstance(error, OSError) and not isinstance(error, PolyclinicError):
        error = of_system(error)
    known = isinstance(error, PolyclinicError)
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    kept = None if known or debug else _keep(error)
    if not known:
        error = PolyclinicError(
            f"a fault in polyclinic itself ({type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else 'no message'})",
            "",
            f"report it with the traceback kept in {kept}"
            if kept
            else "run it again with --debug and report what it prints",
        )
    assert isinstance(error, PolyclinicError)
    typer.secho(str(error), err=True, fg=None if not sys.stderr.isatty() else typer.colors.RED)
    if as_json:
        told = {"found": error.found, "expected": error.expected, "do": error.remedy}
        typer.echo(json.dumps({"error": told, "exit": code}, ensure_ascii=False))
    raise typer.Exit(code)


def of_system(error: OSError) -> PolyclinicError:
    """The operating system's refusal, in the words of the others."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return PolyclinicError(
            f"no room on the disk{where}",
            "space; what was finished is kept",
            "free some and run the same command again",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PolyclinicError(
            f"a place that may not be used{where}",
            "the right to read and write it",
            "choose another, or change its rights",
        )
    if error.errno in (errno.EADDRINUSE,):
        return PolyclinicError(f"an address already in use{where}", "a free port", "give another --port")
    return PolyclinicError(
        f"{(error.strerror or str(error)).lower()}{where}", "a file or folder that can be used", "check the path"
    )


def _keep(error: BaseException) -> Path | None:
    try:
        number, name = tempfile.mkstemp(prefix="polyclinic-fault-", suffix=".txt")
        with os.fdopen(number, "w") as file:
            traceback.print_exception(error, file=file)
        return Path(name)
    except OSError:
        return None


def plain(value: Any) -> Any:
    """The value as JSON knows it; a number that is none becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if (listed := getattr(value, "tolist", None)) is not None:  # arrays and their scalars
        return plain(listed())
    if isinstance(value, Sequence | set | frozenset):
        return [plain(v) for v in value]
    return str(value)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """A table for a person; columns whose name starts with '#' hold numbers."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in columns:
        made.add_column(name.removeprefix("#"), justify="right" if name.startswith("#") else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return made


@contextmanager
def progress(label: str) -> Iterator[Report]:
    """Progress on stderr: a bar at a terminal, else a line now and then. Yields what a long function calls."""
    if not sys.stderr.isatty():
        yield _lines(label)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[what]}"),
        console=Console(stderr=True), transient=False,
    )  # fmt: skip
    with bar:
        task = bar.add_task(label, total=None, what="")
        yield lambda done, total, what: bar.update(task, completed=done, total=total, what=what[-48:])


def _lines(label: str, every_s: float = 5.0) -> Report:
    last = [time.monotonic()]

    def report(done: int, total: int, what: str) -> None:
        if done >= total or time.monotonic() - last[0] >= every_s:
            last[0] = time.monotonic()
            print(f"{label}: {done}/{total} {what}", file=sys.stderr, flush=True)

    return report
