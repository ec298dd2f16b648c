"""Robot kinematics: CSV with a column of time, and JIGSAWS text (76 columns at 30 Hz) with its transcriptions of gestures.

A transcription labels time as a mask labels space: it is a record of the same modality with `mask`, which the catalogue
links to the trial of its name, and which is never a model's input.

Source: Gao et al. 2014, JIGSAWS (M2CAI), whose readme lists the columns: of the master's left and right and the slave's left
and right manipulator position (3), rotation matrix (9), velocity (3), angular velocity (3) and the gripper's angle.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..schema import Modality, Payload, Record, Rejected, Scalar
from .naming import patient_of
from .source import LARGEST_BYTES, RecordError, content_id, encoding_of, place_of
from .tables import PATIENT_COLUMNS, find, plain, table, typed

JIGSAWS_HZ = 30.0
FEWEST_CHANNELS, FEWEST_SAMPLES = 3, 2
EVEN = 0.02
"""Samples are even if none lies further from its place than this share of a step: a rounded time, not a late one."""

_TIME = re.compile(
    r"(?:time|timestamp|t|stamp|clock|rostime|elapsed(?:time)?)(s|sec|secs|seconds?|ms|msec|us|usec|ns|nsec)?"
)
_UNIT_S = {"": None, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_MOTION = re.compile(
    r"(?:^|[^a-z])(?:joint|pos(?:ition)?|pose|vel(?:ocity)?|acc(?:el(?:eration)?)?|quat(?:ernion)?|orientation|rot(?:ation)?|gripper|jaw|"
    r"effort|torque|force|wrench|twist|linear|angular|angle|roll|pitch|yaw|tool|tip|psm|mtm|ecm|ee|[pqjrvwt]?_?[xyzw]|[qj]\d+)(?:$|[^a-z])"
)  # fmt: skip
_GESTURE = re.compile(r"\s*(\d+)\s+(\d+)\s+G(\d+)\s*")
TRIAL = re.compile(r"((?:[A-Za-z]+_|P\d{15}_)+)([A-Z]|P\d{15}-)(\d{3})(?!\d)")
"""Task, surgeon and trial: `Suturing_B001`; of a de-identified one `Suturing_P123456789012345-001`."""
_TASKS = ("suturing", "knot tying", "needle passing")

JIGSAWS_CHANNELS = tuple(
    f"{arm} {channel}"
    for arm in ("master left", "master right", "slave left", "slave right")
    for channel in (
        *(f"position {axis}" for axis in "xyz"),
        *(f"rotation {row}{column}" for row in "123" for column in "123"),
        *(f"velocity {axis}" for axis in "xyz"),
        *(f"angular velocity {axis}" for axis in "xyz"),
        "gripper angle",
    )
)


@dataclass(frozen=True, slots=True)
class Motion:
    """Samples of channels.

    Args:
        values: (c t) float32, NaN where a cell was empty.
        times_s: (t,) float64 ascending, from the first sample.
        names: of the channels.
        start: the first sample's date, where the times count from an epoch.
    """

    values: np.ndarray
    times_s: np.ndarray
    names: tuple[str, ...]
    start: datetime | None = None

    @property
    def step_s(self) -> float | None:
        """Seconds from sample to sample; None where they are not even."""
        count = len(self.times_s) - 1
        step = float(self.times_s[-1]) / count
        astray = np.abs(self.times_s - step * np.arange(count + 1)).max()
        return step if astray <= EVEN * step else None

    def attributes(self) -> dict[str, Scalar]:
        """rate_hz (the median one of uneven samples), seconds, channels, samples, variable_rate."""
        step = self.step_s or float(np.median(np.diff(self.times_s)))
        return {
            "rate_hz": 1 / step, "seconds": float(self.times_s[-1]) + step, "channels": len(self.values),
            "samples": len(self.times_s), "variable_rate": self.step_s is None,
        }  # fmt: skip

    def payload(self) -> Payload:
        """array (c t) float32; to_world[0, 0] seconds a sample where they are even, else places (t 4) 0, 0, 0 and seconds."""
        if (step := self.step_s) is not None:
            return Payload(self.values, np.diag([step, 1.0, 1.0, 1.0]), names=self.names)
        places = np.zeros((len(self.times_s), 4))
        places[:, 3] = self.times_s
        return Payload(self.values, names=self.names, places=places)


def motion(values: np.ndarray, times: np.ndarray, unit_s: float | None, names: Sequence[str]) -> Motion:
    """Samples whose times are in some unit.

    Args:
        values: (c t).
        times: (t,) ascending, since some start or since 1970.
        unit_s: seconds of one; None where nothing says so: seconds, or what makes a date of a time since 1970.
        names: of the channels.
    Raises:
        RecordError: too few samples, or a rate that no robot has.
    """
    if len(times) < FEWEST_SAMPLES:
        raise RecordError(
            f"kinematics of {len(times)} samples", f"at least {FEWEST_SAMPLES}", "export the whole recording"
        )
    if unit_s is None:
        unit_s = next((u for u, least in ((1e-9, 1e17), (1e-6, 1e14), (1e-3, 1e11)) if times[0] >= least), 1.0)
    step = float(np.median(np.diff(times))) * unit_s
    if not 1e-6 <= step <= 10:
        raise RecordError(
            f"kinematics with a sample every {step:.3g} s", "between 0.1 Hz and 1 MHz", "say the unit in the column's name: time_ms"
        )  # fmt: skip
    epoch_s = float(times[0]) * unit_s
    start = datetime.fromtimestamp(epoch_s, UTC).replace(tzinfo=None) if 5e8 < epoch_s < 5e9 else None
    values = np.where(np.abs(values) < np.finfo(np.float32).max, values, np.nan)  # no robot reaches so far
    return Motion(np.ascontiguousarray(values, np.float32), (times - times[0]) * unit_s, tuple(names), start)


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is a CSV of motion in time without patients, a JIGSAWS trial or a transcription of gestures."""
    if b"\x00" in head:
        return False
    every = head.decode(encoding_of(head), errors="replace").splitlines()
    lines = [line for line in (every if len(head) < 4096 else every[:-1]) if line.strip()]
    if path.suffix.lower() in {".csv", ".tsv"}:
        return _moves(path.suffix.lower(), lines)
    if path.suffix.lower() != ".txt" or not lines:
        return False
    return _trial(head) or all(_GESTURE.fullmatch(line) for line in lines)


def _trial(head: bytes) -> bool:
    cells = head.split(b"\n", 1)[0].split()
    return len(cells) == len(JIGSAWS_CHANNELS) and all(re.fullmatch(rb"[-+]?[\d.]+(?:[eE][-+]?\d+)?", c) for c in cells)


def _moves(suffix: str, lines: Sequence[str]) -> bool:
    """Whether a table's first lines are samples of motion: a time that grows, and numbers under names of motion."""
    if len(lines) < 2:
        return False
    first = lines[0]
    delimiter = "\t" if suffix == ".tsv" else ";" if first.count(";") > first.count(",") else ","
    names = [name.strip().strip('"') for name in first.split(delimiter)]
    when = _time_column(names)
    if when is None or find(names, PATIENT_COLUMNS) is not None:
        return False
    point = (lambda cell: cell.replace(",", ".")) if delimiter == ";" else str
    rows = [[typed(point(cell).strip().strip('"')) for cell in line.split(delimiter)] for line in lines[1:]]
    if any(len(row) != len(names) for row in rows):
        return False
    times = [value for row in rows if isinstance(value := row[when], float)]
    grows = bool(times) and sum(a < b for a, b in pairwise(times)) + 1 > 0.75 * len(rows)
    others = [i for i in range(len(names)) if i != when]
    numeric = [i for i in others if all(row[i] is None or isinstance(row[i], float) for row in rows)]
    moving = [i for i in numeric if _MOTION.search(names[i].lower())]
    return (
        grows
        and len(moving) >= FEWEST_CHANNELS
        and 2 * len(moving) >= len(numeric)
        and 4 * len(numeric) >= 3 * len(others)
    )


def _time_column(names: Sequence[str]) -> int | None:
    return next((i for i, name in enumerate(names) if _TIME.fullmatch(plain(name))), None)


def _unit_of(name: str) -> float | None:
    said = _TIME.fullmatch(plain(name))
    unit = (said[1] or "") if said else ""
    return _UNIT_S[re.sub(r"(?<=^[mun]s)ec$|(?<=^s)ec(?:ond)?s?$", "", unit)]


def _table(path: Path) -> tuple[Motion, list[int]]:
    """The samples, and the numbers of the rows that are none: a time that is no number, or does not grow."""
    with table(path) as (names, rows):
        when = _time_column(names)
        assert when is not None
        others = [i for i, name in enumerate(names) if i != when and name]
        cells, times, aside = array("d"), array("d"), list[int]()
        for number, row in rows:
            moment = typed(row[when]) if when < len(row) else None
            if not isinstance(moment, float) or len(row) > len(names) or (times and moment <= times[-1]):
                aside.append(number)
                continue
            times.append(moment)
            values = (typed(row[i]) if i < len(row) else None for i in others)
            cells.extend(v if isinstance(v, float) else np.nan for v in values)
            if 8 * len(cells) > LARGEST_BYTES:
                raise RecordError("kinematics of over 2 GiB", "less", "cut the recording into parts")
    values = np.array(cells).reshape(-1, len(others)).T
    kept = (
        np.isfinite(values).mean(axis=1) >= 0.5 if len(times) else np.zeros(len(others), bool)
    )  # a label's column is text
    if len(times) <= len(aside) or kept.sum() < FEWEST_CHANNELS:
        raise RecordError(
            f"a table of motion with {len(times)} good rows of {len(times) + len(aside)} and {int(kept.sum())} columns of numbers",
            "a time that grows from row to row, and numbers", "export it again",
        )  # fmt: skip
    chosen = [names[i] for i, keep in zip(others, kept, strict=True) if keep]
    return motion(values[kept], np.array(times), _unit_of(names[when]), chosen), aside


def _jigsaws(path: Path) -> Motion:
    if path.stat().st_size > LARGEST_BYTES // 4:
        raise RecordError("a JIGSAWS trial of over half a gigabyte", "minutes at 30 Hz", "check where it comes from")
    try:
        values = np.loadtxt(path, dtype=np.float32, ndmin=2)
    except ValueError as error:
        raise RecordError(
            "a JIGSAWS trial with a line that is not 76 numbers", "76 numbers a line", "copy it again"
        ) from error
    if values.shape[1] != len(JIGSAWS_CHANNELS) or not np.isfinite(values).all():
        raise RecordError(f"a JIGSAWS trial of {values.shape[1]} columns", "76 finite numbers a line", "copy it again")
    return motion(values.T, np.arange(len(values)) / JIGSAWS_HZ, 1.0, JIGSAWS_CHANNELS)


def _gestures(path: Path) -> list[tuple[int, int, int]]:
    """First and last frame, from 1, and the number of each gesture, in order.

    Raises:
        RecordError: a line that is none, or one that overlaps the one before.
    """
    if path.stat().st_size > 1 << 20:
        raise RecordError("a transcription of over a megabyte", "some tens of lines", "check where it comes from")
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    found = [_GESTURE.fullmatch(line) for line in lines]
    gestures = [(int(g[1]), int(g[2]), int(g[3])) for g in found if g]
    before = 0
    for first, last, _ in gestures:
        if not before < first <= last < 10**7:
            raise RecordError(
                "a transcription whose gestures are not one after the other",
                "first and last frame, ascending",
                "repair it",
            )
        before = last
    if not gestures or len(gestures) < len(lines):
        raise RecordError("a transcription with a line that is no gesture", "lines like `80 233 G1`", "repair it")
    return gestures


def surgeon(trial: re.Match[str]) -> str:
    """Who is operating, of a match of `TRIAL`: a letter, or a pseudonym."""
    return f"surgeon {trial[2]}" if len(trial[2]) == 1 else trial[2].rstrip("-")


def filmed(stem: str) -> tuple[str, dict[str, Scalar]] | None:
    """Who operates in a video of JIGSAWS, and task, trial and camera, by its name (`Suturing_B001_capture1`); None of any other.

    One letter and three digits may well be a patient in other videos: they count with the data set's own tasks or its word for the camera.
    """
    trial = TRIAL.match(stem)
    if not trial:
        return None
    said, camera = _said(trial), re.fullmatch(r"_capture(\d)", stem[trial.end() :])
    if not camera and said["task"] not in _TASKS:
        return None
    return surgeon(trial), {**said, **({"capture": int(camera[1])} if camera else {})}


def _said(trial: re.Match[str]) -> dict[str, Scalar]:
    return {"task": trial[1].replace("_", " ").strip().lower(), "trial": int(trial[3])}


def _who(place: str, stem: str) -> tuple[str, dict[str, Scalar]]:
    """Whose a recording is (of JIGSAWS, the surgeon), and what its name says."""
    if trial := TRIAL.match(stem):
        return surgeon(trial), {**_said(trial), "stem": trial[0]}
    first = stem.split("_")[0]
    return patient_of(place, stem) or (first if re.search(r"\d", first) else stem), {"stem": stem}


def described(path: Path, root: Path, moved: Motion, kind: str, topic: str = "") -> Record:
    """The record of a file's motion, or of one topic's.

    Args:
        path, root: the file, and the ingested folder.
        moved: its samples.
        kind: what moves, such as `kinematics psm1`.
        topic: of a bag.
    """
    place = place_of(path, root)
    patient, said = _who(place, path.stem)
    return Record(
        id=content_id(path, topic),
        patient=patient,
        time=moved.start,
        modality=Modality.KINEMATICS,
        kind=kind,
        uri=f"{place}#topic={topic}" if topic else place,
        attributes={**moved.attributes(), **said, "anonymous": True},
    )


def _is_transcription(path: Path) -> bool:
    with path.open("rb") as file:
        return path.suffix.lower() == ".txt" and not _trial(file.read(4096))


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record a file; rows whose time is no number or does not grow are set aside together."""
    if path.suffix.lower() != ".txt":
        moved, aside = _table(path)
        if aside:
            shown = ", ".join(map(str, aside[:10])) + (" …" if len(aside) > 10 else "")
            yield Rejected(
                place_of(path, root), f"{len(aside)} rows whose time is no number or does not grow: {shown}",
                "a time that grows from row to row", "sort it, or repair them",
            )  # fmt: skip
        yield described(path, root, moved, "kinematics")
    elif _is_transcription(path):
        gestures = _gestures(path)
        patient, said = _who(place_of(path, root), path.stem)
        numbers = sorted({number for *_, number in gestures})
        yield Record(
            id=content_id(path), patient=patient, time=None, modality=Modality.KINEMATICS, kind="MASK gestures", uri=place_of(path, root),
            attributes={
                "mask": True, "anonymous": True, **said, "rate_hz": JIGSAWS_HZ, "samples": gestures[-1][1],
                "gestures": len(gestures), **{f"segment_{n}": f"G{n}" for n in numbers},
            },
        )  # fmt: skip
    else:
        yield described(path, root, _jigsaws(path), "kinematics da Vinci")


def load(record: Record) -> Payload:
    """As `Motion.payload`; of a transcription array (1 t) float32, the gesture's number at each frame, 0 where it has none."""
    path = Path(record.uri)
    if path.suffix.lower() != ".txt":
        return _table(path)[0].payload()
    if not _is_transcription(path):
        return _jigsaws(path).payload()
    gestures = _gestures(path)
    numbers = np.zeros((1, gestures[-1][1]), np.float32)
    for first, last, number in gestures:
        numbers[0, first - 1 : last] = number
    return Payload(numbers, np.diag([1 / JIGSAWS_HZ, 1.0, 1.0, 1.0]), names=("gesture",))
