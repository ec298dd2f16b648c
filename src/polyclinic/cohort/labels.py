"""What is known about whom: labels from tables' cells and from masks. What is not known is absent, never zero."""

from __future__ import annotations

import difflib
import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..schema import Modality, PolyclinicError, Record
from . import masks
from .landmarks import Landmarks

_TOLD = (Modality.TABLE, Modality.OMICS, Modality.TEXT)
"""Whose attributes are cells of a table: those of a text are what stood beside it, a section's name or a question's answer."""


class LabelError(PolyclinicError):
    """A label that the cohort does not have."""


@dataclass(frozen=True, slots=True)
class Label:
    """Where a task's answers stand.

    Args:
        task: the task's name in the recipe.
        kind: "class" (0 or 1), "findings" (a class each), "classes" (0, 1 … in no order), "grade" (0, 1 … by rank), "survival" (time,
            event), "outcome" (time, which event from 1 or 0 of none, number of the landmark), "mask", "boxes" or "points".
        column: the table column of the class, of the grade, or of the time.
        positive: the cells that mean 1.
        negative: the cells that mean 0; empty: every other known cell.
        event: the column that tells whether the event was seen.
        event_value: its cell where it was.
        modality: of a mask, boxes or points: of the records they are drawn on, IMAGE or VOLUME.
        kind_like: of those, a word in their record's kind.
        classes: of a mask, what its numbers 1, 2 … mean, "" where nobody asks; of drawn boxes and points, their labels.
        drawn: of boxes and points, as what they were drawn: themselves, or as masks, of whose parts they are the boxes or centres.
        least_mm: of boxes about parts of masks, the longest side from which on a part counts.
        grades: the cells of each grade, the lowest first, or of each class.
        parts: of findings, the label of each.
        parents: of findings, the place of what each is a kind of; −1 of one that is of no kind.
        events: of an outcome, what each event is called.
        causes: of an outcome, the cells of each event.
        censored: of an outcome, the cells that mean none was seen; empty: every other known cell.
        landmarks: of an outcome, when it is asked for, where not from the beginning alone.
    """

    task: str
    kind: Literal["class", "classes", "findings", "grade", "survival", "outcome", "mask", "boxes", "points"]
    column: str | None = None
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    event: str | None = None
    event_value: str | float | None = None
    modality: Modality | None = None
    kind_like: str | None = None
    classes: tuple[str, ...] = ()
    drawn: Literal["shapes", "masks"] = "masks"
    least_mm: float = 0.0
    grades: tuple[tuple[str, ...], ...] = ()
    parts: tuple[Label, ...] = ()
    parents: tuple[int, ...] = ()
    events: tuple[str, ...] = ()
    causes: tuple[tuple[str | float, ...], ...] = ()
    censored: tuple[str | float, ...] = ()
    landmarks: Landmarks | None = None

    @property
    def width(self) -> int:
        """How many numbers an answer is; of what lies on a record, none."""
        return 0 if self.placed else {"survival": 2, "outcome": 3, "findings": len(self.parts)}.get(self.kind, 1)

    @property
    def placed(self) -> bool:
        """Whether the answers lie on records: masks, boxes, points."""
        return self.kind in ("mask", "boxes", "points")

    def groups(self, values: Sequence[Any]) -> list[int]:
        """What of each answer a part of the patients must keep the share of: the class, the grade, which event was seen or whether
        anything was found."""
        if self.kind == "findings":
            return [int(1 in value) for value in values]
        return [int(value[1] if self.kind in ("survival", "outcome") else value) for value in values]

    def subset(self, known: Mapping[str, Any], n: int | None, seed: int) -> tuple[str, ...]:
        """The first n of a fixed order of those of whom the answer is known, dealt by `groups`; see `subset`."""
        return subset(dict(zip(known, self.groups(list(known.values())), strict=True)), n, seed)

    def rarest(self, values: Sequence[Any]) -> int:
        """How many patients the rarest of what is told apart has; of a survival, how many events, the rarest of several; of classes, how
        many have another than the commonest: few of them may be rare, and some absent."""
        if self.kind == "findings":
            return min(part.rarest(known) for part, known in self._each(values))
        counts = Counter(self.groups(values))
        if self.kind == "classes":
            return counts.total() - max(counts.values(), default=0)
        told = range(len(self.grades) or 2)
        if self.kind in ("survival", "outcome"):
            told = range(1, 1 + max(len(self.causes), 1))
        return min(counts[k] for k in told)

    def _each(self, values: Sequence[Any]) -> list[tuple[Label, list[float]]]:
        """Each finding's label, and what is known of it."""
        return [(part, [v[n] for v in values if not math.isnan(v[n])]) for n, part in enumerate(self.parts)]

    def lacking(self, values: Sequence[Any]) -> tuple[str, str] | None:
        """Of answers from which nothing can be learned, what they are and what was expected; else None."""
        if self.kind == "boxes" and not any(values):
            return f"on whose {self.modality} nothing is drawn for {self.task!r}", "at least one with something drawn"
        if self.placed or self.rarest(values):
            return None
        if self.kind == "grade":
            there = set(self.groups(values))
            absent = [" or ".join(cells) for n, cells in enumerate(self.grades) if n not in there]
            return f"of {self.task!r} without the grade {', '.join(absent)}", "at least one of each grade"
        if self.kind == "findings":
            absent = ", ".join(part.task for part, known in self._each(values) if not part.rarest(known))
            return f"of one class of {absent} in {self.task!r}", "both classes of each finding"
        if self.kind == "classes":
            return f"of one class of {self.task!r}", "at least two classes"
        if self.kind == "survival":
            return f"of {self.task!r} without an event", "at least one event"
        if self.kind == "outcome":
            there = set(self.groups(values))
            absent = ", ".join(name for n, name in enumerate(self.events, start=1) if n not in there)
            return f"of {self.task!r} without an event of {absent}", "at least one of each event"
        return f"of one class of {self.task!r}", "both classes"


def _same(cell: object, wanted: object) -> bool:
    try:
        return float(cell) == float(wanted)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(cell).strip().lower() == str(wanted).strip().lower()


def implied(known: Sequence[float], parents: Sequence[int]) -> tuple[float, ...]:
    """What follows of findings of which some are kinds of others: who has one has what it is a kind of, and who has not that has none of
    its kinds. Of a yes and a no that contradict each other neither is known.

    Args:
        known: of each 1, 0 or NaN.
        parents: the place of what each is a kind of, or −1.
    """
    lines = [tuple(_line(n, parents)) for n in range(len(parents))]
    against = {(n, a) for n, line in enumerate(lines) for a in line if known[n] == 1 and known[a] == 0}
    taken = {n: value for n, value in enumerate(known) if not any(n in pair for pair in against)}
    yes = {a for n, value in taken.items() if value == 1 for a in lines[n]}
    no = {n for n, line in enumerate(lines) if any(taken.get(a) == 0 for a in line)}
    return tuple(1.0 if n in yes else 0.0 if n in no else math.nan for n in range(len(lines)))


def _line(number: int, parents: Sequence[int]) -> Iterator[int]:
    """A finding, and all that it is a kind of."""
    while number >= 0:
        yield number
        number = parents[number]


def check_column(found: Sequence[Record], column: str, asking: str) -> None:
    """Refuse a column that no record has, and name the closest one.

    Args:
        found: the records.
        column: what is asked for.
        asking: who asks, for the message.
    Raises:
        LabelError: with the columns there are.
    """
    columns = sorted({name for r in found for name in r.attributes if r.modality in _TOLD})
    if column not in columns:
        close = difflib.get_close_matches(column, columns, n=1, cutoff=0.5)
        raise LabelError(
            f"{asking} asks for the column {column!r}, which no table has",
            "one of " + ", ".join(columns[:40]),
            f"did you mean {close[0]!r}?" if close else "correct the column's name",
        )


def labels_of(found: Sequence[Record], label: Label) -> dict[str, Any]:
    """The known answers.

    Returns:
        class: patient → 0 or 1 (any positive row makes the patient positive); findings: patient → 0, 1 or (unknown) NaN of each;
        classes: patient → its number from 0, of nobody whose rows differ;
        grade: patient → its rank from 0, of several rows the highest; survival: patient → (time, event);
        outcome: patient → (time, event, 0), of several rows the first event, else the longest follow-up;
        mask: image record id → the mask's Record; of several masks, of several structures or readers, one that `Cohort.load` puts
        together as `masks` says;
        boxes, points: image record id → the records of what was drawn on it, or of its mask; one that says nothing was is among them.
    Raises:
        LabelError: no table has the column, or no cell of it is one of the wanted words.
    """
    if label.kind == "mask":
        return _masks(found, label)
    if label.placed:
        one = lambda of: {image: (mask,) for image, mask in of.items()}
        return one(_masks(found, label)) if label.drawn == "masks" else _shapes(found, label)
    if label.kind == "findings":
        each = [labels_of(found, part) for part in label.parts]
        answers = {
            p: tuple(float(one.get(p, math.nan)) for one in each) for p in dict.fromkeys(p for one in each for p in one)
        }
        return {p: implied(known, label.parents) for p, known in answers.items()} if label.parents else answers
    assert label.column is not None
    check_column(found, label.column, f"task {label.task!r}")
    if label.kind == "outcome":
        return _outcomes(found, label)
    if label.kind == "survival":
        assert label.event is not None
        check_column(found, label.event, f"task {label.task!r}")
        return {
            r.patient: (float(time), float(_same(r.attributes[label.event], label.event_value)))
            for r in found
            if isinstance(time := r.attributes.get(label.column), int | float)
            and r.attributes.get(label.event) is not None
        }
    if label.kind == "classes":
        return _one_of(found, label)
    return _grades(found, label) if label.kind == "grade" else _classes(found, label)


def _cells(found: Sequence[Record], column: str) -> list[tuple[str, Any]]:
    """Each patient and what a table says there, row by row."""
    told = [(r.patient, r.attributes.get(column)) for r in found if r.modality in _TOLD]
    return [(patient, cell) for patient, cell in told if cell is not None]


def _grades(found: Sequence[Record], label: Label) -> dict[str, int]:
    assert label.column is not None
    answers: dict[str, int] = {}
    cells = _cells(found, label.column)
    for patient, cell in cells:
        for rank, mine in enumerate(label.grades):
            if any(_same(cell, one) for one in mine):
                answers[patient] = max(rank, answers.get(patient, rank))
    if not answers:
        raise _no_cell(label, cells, "one of its grades", "grades")
    return answers


def _one_of(found: Sequence[Record], label: Label) -> dict[str, int]:
    assert label.column is not None
    answers: dict[str, set[int]] = {}
    cells = _cells(found, label.column)
    for patient, cell in cells:
        mine = [n for n, own in enumerate(label.grades) if any(_same(cell, one) for one in own)]
        answers.setdefault(patient, set()).update(mine)
    known = {patient: mine.pop() for patient, mine in answers.items() if len(mine) == 1}
    if not known:
        raise _no_cell(label, cells, "one of its classes", "classes")
    return known


def _classes(found: Sequence[Record], label: Label) -> dict[str, int]:
    assert label.column is not None
    answers: dict[str, int] = {}
    cells = _cells(found, label.column)
    for patient, cell in cells:
        if any(_same(cell, p) for p in label.positive):
            answers[patient] = 1
        elif not label.negative or any(_same(cell, n) for n in label.negative):
            answers.setdefault(patient, 0)
    if not any(answers.values()):
        raise _no_cell(label, cells, " or ".join(label.positive), "positive")
    return answers


def _outcomes(found: Sequence[Record], label: Label) -> dict[str, tuple[float, float, float]]:
    """The first event of each patient, or how long nothing was seen to happen; a time below 0 tells nothing."""
    assert label.column is not None
    assert label.event is not None
    for column in (label.event, *([label.landmarks.since] if label.landmarks and label.landmarks.since else [])):
        check_column(found, column, f"task {label.task!r}")
    answers: dict[str, tuple[float, float, float]] = {}
    rows = [r for r in found if r.modality in _TOLD and r.attributes.get(label.event) is not None]
    for record in rows:
        time, cell = record.attributes.get(label.column), record.attributes[label.event]
        which = next((n for n, cells in enumerate(label.causes, 1) if any(_same(cell, c) for c in cells)), 0)
        known = which or not label.censored or any(_same(cell, c) for c in label.censored)
        if not known or isinstance(time, bool) or not isinstance(time, int | float) or not 0 <= time < math.inf:
            continue
        told, before = (float(time), float(which), 0.0), answers.get(record.patient)
        # An event outweighs that none was seen; the first of several counts, and the last time that none was.
        rank = lambda answer: (answer[1] == 0, answer[0] if answer[1] else -answer[0])
        answers[record.patient] = told if before is None else min(told, before, key=rank)
    if not any(answer[1] for answer in answers.values()):
        cells = [(r.patient, r.attributes[label.event]) for r in rows]
        raise _no_cell(replace(label, column=label.event), cells, "one of its events", "events")
    return answers


def _no_cell(label: Label, cells: Sequence[tuple[str, Any]], wanted: str, field: str) -> LabelError:
    return LabelError(
        f"task {label.task!r}: no cell of {label.column!r} is {wanted}",
        "one of " + ", ".join(sorted({str(cell) for _, cell in cells})[:20]),
        f"correct `{field}` in the recipe",
    )


def _masks(found: Sequence[Record], label: Label) -> dict[str, Record]:
    """Image record id → its mask, made of several where there are several."""
    several: dict[str, list[Record]] = {}
    for r in found:
        image = r.attributes.get("mask_of")
        drawn = r.attributes.get("annotation") in (None, "mask")  # boxes and keypoints are no mask
        if image and drawn and r.modality is (label.modality or r.modality) and (label.kind_like or "") in r.kind:
            several.setdefault(str(image), []).append(r)
    images = {r.id: r for r in found if r.id in several}
    return {image: masks.one_of(mine, images.get(image), label.classes) for image, mine in several.items()}


def _shapes(found: Sequence[Record], label: Label) -> dict[str, tuple[Record, ...]]:
    """Image record id → what was drawn on it: boxes or keypoints, of one file or several."""
    wanted = {"boxes": "boxes", "points": "keypoints"}[label.kind]
    drawn: dict[str, list[Record]] = {}
    for r in sorted(found, key=lambda r: (r.uri, r.id)):
        image, mine = r.attributes.get("mask_of"), r.attributes.get("annotation") == wanted
        if image and mine and r.modality is (label.modality or r.modality) and (label.kind_like or "") in r.kind:
            drawn.setdefault(str(image), []).append(r)
    told = {str(r.attributes.get("labels")) for each in drawn.values() for r in each}
    names = sorted({name for labels in told for name in labels.split(", ") if name})
    for name in label.classes if told else ():
        if not any(name.lower() in labels.lower() for labels in told):
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            raise LabelError(
                f"task {label.task!r}: no {wanted} are labelled {name!r}",
                "one of " + ", ".join(names[:20]),
                f"did you mean {close[0]!r}?" if close else "correct the name in the recipe",
            )
    return {image: tuple(each) for image, each in drawn.items()}


def _place(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}\x00{name}".encode(), digest_size=8).digest()


def subset(groups: Mapping[str, int], n: int | None, seed: int) -> tuple[str, ...]:
    """The first n names of a fixed order, so that a smaller subset lies in every larger one.

    The order deals groups in turn by their share, the rarest first: a subset of two or more has each of two groups.

    Args:
        groups: name → group.
        n: how many; None for all.
        seed: of the order.
    """
    members: dict[int, list[str]] = {}
    for name, group in groups.items():
        members.setdefault(group, []).append(name)
    ranked = []
    for group, names in members.items():
        names.sort(key=lambda name: _place(seed, name))
        # The i-th of a group of g stands at i/g of the way: every prefix has each group's share.
        ranked += [(i / len(names), len(names), group, name) for i, name in enumerate(names)]
    return tuple(name for *_, name in sorted(ranked)[: n if n is not None else len(ranked)])
