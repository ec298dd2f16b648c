"""What a model made says so in its own file, and no reader takes it for a patient's."""

from __future__ import annotations

from .source import RecordError

MARK = "SYNTHETIC"
"""The keyword of a PNG's text; a NIfTI's `intent_name`."""


def refuse(marked: bool) -> None:
    """Refuse a file that has the mark.

    Raises:
        RecordError: it has.
    """
    if marked:
        raise RecordError(
            f"a record that a model made (its header says {MARK})",
            "a patient's record",
            "keep what was made apart from what was taken",
        )
