"""The types that every room shares; a whole newcomer's reading. It imports no room.

A patient is a set of records; an encoder turns each record into tokens that keep their modality, their place (mm) and
their time; everything after that is a function of a bag of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from torch import Tensor

Scalar = str | float | int | bool | None


class Modality(StrEnum):
    """What a record is, for the encoder that reads it; the order is the modality's number in `Tokens.modality`."""

    IMAGE = "image"
    VOLUME = "volume"
    SLIDE = "slide"
    VIDEO = "video"
    TEXT = "text"
    TABLE = "table"
    SIGNAL = "signal"
    OMICS = "omics"
    KINEMATICS = "kinematics"

    @property
    def number(self) -> int:
        """0..8, as it stands in `Tokens.modality`."""
        return list(Modality).index(self)


class PolyclinicError(Exception):
    """Something the user can mend: what was found, what was expected, what to do.

    Args:
        found: what is there (names the file, the record, the row or the key; never patient data).
        expected: what should have been there.
        remedy: the next thing to do, as an instruction.
    """

    def __init__(self, found: str, expected: str = "", remedy: str = "") -> None:
        self.found, self.expected, self.remedy = found, expected, remedy
        parts = [f"Found: {found}", f"Expected: {expected}" if expected else "", f"Do: {remedy}" if remedy else ""]
        super().__init__("\n".join(p for p in parts if p))

    def __reduce__(self) -> tuple[object, ...]:  # from a process that reads files to the one that asked for them
        return _again, (type(self), self.found, self.expected, self.remedy)


def _again(kind: type[PolyclinicError], found: str, expected: str, remedy: str) -> PolyclinicError:
    error = kind.__new__(kind)
    PolyclinicError.__init__(error, found, expected, remedy)
    return error


class MissingExtraError(PolyclinicError):
    """A library of an optional extra is not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            f"the library {library!r} is not installed",
            f"the extra {extra!r}, which brings it",
            f"pip install 'polyclinic[{extra}]'",
        )


@dataclass(frozen=True, slots=True)
class Record:
    """One row of the catalogue: where a piece of a patient's history lies, and what it is.

    `attributes` holds scalars only (age, sex, view, spacing, rate, licence, the cells of a table's row). A mask is a
    record too: its `attributes["mask_of"]` is the id of the image that it labels, and it is never a model's input.
    `attributes["anonymous"]` tells that the source does not name its patient: its place or its name did.
    """

    id: str  # blake2b-128 of the source bytes and the place in them, hex
    patient: str
    time: datetime | None
    modality: Modality
    kind: str  # what exactly, in the field's words: "CR chest PA", "ECG 12-lead", "LOINC 2160-0"
    uri: str  # where the source lies: a path, with '#row=17' or '#entry=name' for a part of it
    site: str | None = None
    device: str | None = None
    attributes: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejected:
    """One row of the `rejected` table: a source that was set aside, and why."""

    uri: str
    found: str
    expected: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Events:
    """Rows of a health record's history, of any patients, as a reader found them; they land in the catalogue's event table.

    The columns are MEDS's `DataSchema` (subject, time, code, numeric_value, text_value) and what MEDS leaves out. A reader
    may leave a column out where it has nothing to say.

    Args:
        table: `patient` string; `time` timestamp[us], null where the fact has none (sex); `code` string, "LOINC 2160-0",
            "MEDS_BIRTH", "MEDS_DEATH"; `numeric_value` float32 in `unit`; `text_value` string; `unit` string, in UCUM, the
            code's standard one where it has one; `source_value` float64 and `source_unit` string, as it was written, where
            that differs; `encounter` string; `site` string.
    """

    table: pa.Table


@dataclass(frozen=True, slots=True)
class Step:
    """One invertible step of a payload's history: enough of the grid before it to travel back.

    Args:
        name: the harmoniser's step, such as "resample".
        shape: the spatial shape (z y x), (y x) or (t,) before the step.
        to_world: the 4x4 index-to-mm matrix before the step, as rows; None where the source had no geometry.
        parameters: what the step was told.
    """

    name: str
    shape: tuple[int, ...]
    to_world: tuple[tuple[float, ...], ...] | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Payload:
    """An array with its geometry.

    `array` is (c z y x) for a volume, (c y x) for an image with c 3 where it is in colours, (t c y x) for a video, (c y x) for a
    slide's overview and (n c y x) for its tiles, (c t) for a signal and for kinematics, (w,) int64 word numbers for a harmonised
    text, (e 3) code number, value, hours for a harmonised table, (g,) float32 with NaN where not measured for harmonised omics.
    `to_world` maps homogeneous index (x y z 1) to mm in LPS, as DICOM PS3.3 C.7.6.2.1.1; for signals its [0, 0] is seconds a sample.
    """

    array: np.ndarray
    to_world: np.ndarray | None = None
    history: tuple[Step, ...] = ()
    nominal: bool = False  # the scale is by kind, not from the file
    names: tuple[str, ...] = ()  # what the rows are called: signal leads, genes, a table's codes
    text: str | None = None  # a text record's words, before tokenising
    places: np.ndarray | None = (
        None  # (n 4) x, y, z in mm and s, where no even grid says it: tiles of a slide, frames of a video
    )


@dataclass(slots=True)
class Ragged:
    """The m records of one modality in a batch.

    Args:
        values: (m ...) where shapes agree, else a list of m tensors.
        patient: (m,) int64, which of the batch's patients, ascending.
        time_h: (m,) float32, hours from the patient's index time.
        spacing: (m k) mm or seconds a sample in axis order: (z y x) of a volume, (y x) of an image, of a slide's tiles and of a video's
            frames, (t,) of signals and kinematics; NaN where the file had none.
        patients: b, how many patients the batch has, with or without such records.
        ids: the m record ids.
        places: of each record (n 4) float32, x, y, z in mm and s, where no even grid says it: the centres of a slide's n tiles, the
            times of a video's n frames; None for modalities that lie on a grid.
        kinds: the m records' kinds; None where nobody knows them.
        dated_h: (m,) float64, `time_h` as exactly as it is known, and NaN where the record has no date; None where nobody knows.
        studies: the uid of the study that each is of; None where it is of none, or nobody knows.
    """

    values: Tensor | list[Tensor]
    patient: Tensor
    time_h: Tensor
    spacing: Tensor | None
    patients: int
    ids: list[str]
    places: list[Tensor] | None = None
    kinds: list[str] | None = None
    dated_h: Tensor | None = None
    studies: list[str | None] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, rows: Sequence[int]) -> Ragged:
        """Some of its records, ascending, of the same b patients."""
        picked = list(rows)
        return Ragged(
            values=[self.values[i] for i in picked] if isinstance(self.values, list) else self.values[picked],
            patient=self.patient[picked],
            time_h=self.time_h[picked],
            spacing=None if self.spacing is None else self.spacing[picked],
            patients=self.patients,
            ids=[self.ids[i] for i in picked],
            places=None if self.places is None else [self.places[i] for i in picked],
            kinds=None if self.kinds is None else [self.kinds[i] for i in picked],
            dated_h=None if self.dated_h is None else self.dated_h[picked],
            studies=None if self.studies is None else [self.studies[i] for i in picked],
        )


@dataclass(slots=True)
class Target:
    """What a task wants to know, and about whom it is known.

    Args:
        values: (b ...) one a patient; for a dense target a list, one (z y x) or (y x) int64 a record of the modality.
        mask: (b,) or (m,) bool, True where labelled: an unlabelled patient is not a negative one.
    """

    values: Tensor | list[Tensor]
    mask: Tensor


@dataclass(slots=True)
class Batch:
    """b patients; only what exists is here."""

    payloads: dict[Modality, Ragged]
    targets: dict[str, Target]
    patients: list[str]


@dataclass(slots=True)
class Tokens:
    """n tokens of b patients, sorted by patient.

    Args:
        values: (n d).
        patient: (n,) int64, 0..b-1, ascending.
        modality: (n,) int64, `Modality.number`.
        record: (n,) int64, which record of the batch; place means something within one frame of reference.
        position: (n 4) float32, x, y, z in mm and s: seconds within the record (for text, the word's order).
        time_h: (n,) float32, the record's time (an event's own, in an EHR).
        lengths: (b,) int64, tokens of each patient; a patient may have none.
    """

    values: Tensor
    patient: Tensor
    modality: Tensor
    record: Tensor
    position: Tensor
    time_h: Tensor
    lengths: Tensor


@dataclass(slots=True)
class Fused:
    """What a fusion gives: tokens, one vector a patient, and who had anything at all.

    Args:
        tokens: the tokens after fusion, sorted by patient.
        pooled: (b d); zeros for a patient without tokens.
        present: (b,) bool.
    """

    tokens: Tokens
    pooled: Tensor
    present: Tensor


@dataclass(slots=True)
class Losses:
    """Named scalar losses and their weights; a term that nothing in the batch speaks to is absent."""

    terms: dict[str, Tensor]
    weights: Mapping[str, float | Tensor]

    @property
    def total(self) -> Tensor | None:
        """The weighted sum; None when the batch spoke to no term."""
        parts = [self.weights.get(name, 1.0) * term for name, term in self.terms.items()]
        return sum(parts[1:], parts[0]) if parts else None


@dataclass(frozen=True, slots=True)
class Figure:
    """A reported number: never without n, an interval and the split it was measured on.

    Args:
        name: the metric, such as "auroc".
        value: the point estimate; NaN where it is not defined (say why in `note`).
        low, high: the 95% interval.
        n: how many patients it rests on.
        split: the hash of the split (`lock.json`).
        note: how the interval was made, or why there is none.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    split: str
    note: str = "95% interval, bootstrap over patients"
