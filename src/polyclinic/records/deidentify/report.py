"""What was done: file by its new name, place in it, action. No value that was found is ever in here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

MOST_ACTIONS = 100_000
"""Beyond that, actions are only counted."""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing done in one file.

    Args:
        file: its new name.
        place: where in it: a tag, a JSON path without values, a column's number or safe name, a span of characters.
        action: in the words of PS3.15 (D Z X K C U) or of the other kinds of file.
    """

    file: str
    place: str
    action: str


@dataclass(frozen=True, slots=True)
class Aside:
    """A file that was not copied, by the name that it would have, and why."""

    file: str
    found: str
    remedy: str


@dataclass(slots=True)
class Report:
    """What was written, what was done in it, what a person has to look at, and what was not copied."""

    key_check: str
    options: dict[str, Any]
    files: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    actions: list[Action] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    review: list[Action] = field(default_factory=list)
    aside: list[Aside] = field(default_factory=list)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def did(self, file: str, place: str, action: str) -> None:
        """Note an action."""
        self.counts[action.split(":")[0]] += 1
        if len(self.actions) < MOST_ACTIONS:
            self.actions.append(Action(file, place, action))

    def ask(self, file: str, place: str, why: str) -> None:
        """Leave something to a person's eyes."""
        self.review.append(Action(file, place, why))

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        rows = lambda items: [{name: getattr(item, name) for name in item.__slots__} for item in items]
        return {
            "key_check": self.key_check, "options": self.options, "files": self.files, "kinds": dict(self.kinds),
            "counts": dict(self.counts), "review": rows(self.review), "set_aside": rows(self.aside), "tables": self.tables,
            "warnings": self.warnings, "actions": rows(self.actions),
        }  # fmt: skip
