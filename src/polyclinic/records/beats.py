"""What was noted along a WFDB signal, by a person or a program: beats, rhythms, words, in annotation files beside it (`wfdb`).

Source: WFDB Applications Guide, `annot(5)` (the format) and its table of annotation codes (`N` normal, `V` premature ventricular …).
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Scalar
from .source import RecordError

REFERENCE = "atr"
"""The ending of what people agreed on; other endings are programs', by convention."""
MOST_NOTED = 1000
_LARGEST = 2**24


@dataclass(frozen=True, slots=True)
class Notes:
    """One annotation file.

    Args:
        annotator: its ending.
        noted: [onset s, 0, code and words] each, in their order.
        counts: how often each code stands.
    """

    annotator: str
    noted: tuple[tuple[float, float, str], ...]
    counts: Counter[str]


def notes_of(path: Path, rate_hz: float, seconds: float) -> Notes:
    """The annotations in a file that lies beside a header of its stem.

    Args:
        path: the file.
        rate_hz: the signal's, for annotations that have none of their own.
        seconds: the signal's length.
    Raises:
        RecordError: they do not read, or lie outside the signal.
    """
    import wfdb

    if path.stat().st_size > _LARGEST:
        raise RecordError(f"annotations of over {_LARGEST >> 20} MiB", "less", "check where they come from")
    try:
        found: Any = wfdb.rdann(str(path.with_suffix("")), path.suffix[1:])
        times = np.asarray(found.sample, dtype=np.float64) / float(found.fs or rate_hz)
        codes = [code if isinstance(code, str) and code.strip() else "?" for code in found.symbol]
        words = [str(word).replace("\x00", " ").strip() for word in found.aux_note]
    except Exception as error:
        raise RecordError(
            f"annotations that do not read ({type(error).__name__})", "a WFDB annotation file", "copy it again, or leave it out"
        ) from error  # fmt: skip
    if len(times) == 0 or times.min() < 0 or times.max() > seconds + 1 or (np.diff(times) < 0).any():
        raise RecordError(
            "annotations that lie outside their signal", "times within it, in their order", "leave them out"
        )
    noted = zip(times.tolist(), codes, words, strict=True)
    return Notes(path.suffix[1:], tuple((round(t, 4), 0.0, f"{c} {w}".strip()) for t, c, w in noted), Counter(codes))


def attributes_of(found: list[Notes]) -> dict[str, Scalar]:
    """What a signal's record says of its annotations: of the reference ones where there are such, else of the first by its name."""
    if not found:
        return {}
    chosen = min(found, key=lambda notes: (notes.annotator != REFERENCE, notes.annotator))
    return {
        "annotators": " ".join(sorted(notes.annotator for notes in found)),
        "annotator": chosen.annotator,
        "annotation_count": len(chosen.noted),
        "annotation_codes": ", ".join(f"{code} {n}" for code, n in chosen.counts.most_common()),
        "annotations": json.dumps(chosen.noted[:MOST_NOTED], ensure_ascii=False),
    }
