"""Words, as data: what may stand in a file's name or a descriptor, what is a person's name, what is written large and is none.

No list of names is complete, and the rules do not rest on them: a capitalised word within a sentence that nothing here knows is taken
for a name (see `notes`).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=8)
def words(name: str) -> frozenset[str]:
    """One list, in lower case.

    Args:
        name: `plain` (say nothing about a person: they may stay in a file's name and, with the option, in a DICOM descriptor),
            `first_names`, `surnames`, `ambiguous` (names that are words too), `frequent` (begin sentences and headings, or are
            written large in English), `english` (words that notes and abstracts write small), `medical` (drugs, bacteria and eponyms).
    """
    return frozenset((Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8").split())
