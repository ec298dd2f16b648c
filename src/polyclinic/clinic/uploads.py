"""Uploads as files in a folder that only the service's user can read, for as long as a request takes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


class NoRoomError(Exception):
    """The disk has no room for an upload."""


@asynccontextmanager
async def laid_down(files: Sequence[Any]) -> AsyncIterator[tuple[list[Path], list[str]]]:
    """The uploads as files, and what the sender calls them; gone afterwards.

    Raises:
        NoRoomError: the disk is full.
    """
    with TemporaryDirectory(prefix="polyclinic-") as whole:
        folder = Path(whole, "0")  # without a letter: a NIfTI file's kind has its folder's name in it
        folder.mkdir()
        try:
            paths = [await keep(file, folder, number) for number, file in enumerate(files)]
        except OSError as error:
            raise NoRoomError from error
        yield paths, [own_name(file) or path.name for file, path in zip(files, paths, strict=True)]


def own_name(file: Any) -> str:
    """What the sender calls the file, without the folders."""
    return re.split(r"[/\\]", str(file.filename or ""))[-1]


async def keep(file: Any, folder: Path, number: int) -> Path:
    """The upload as a file in the folder.

    Its name is kept as far as it is harmless, because readers look at endings and at pairs of names; and all lie in one
    folder, because the slices of a series do.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", own_name(file))[-120:].lstrip(".") or f"file{number}"
    while (folder / plain).exists():
        plain = f"{number}-{plain}"
    with (folder / plain).open("xb") as out:
        while block := await file.read(1 << 20):
            out.write(block)
    return folder / plain
