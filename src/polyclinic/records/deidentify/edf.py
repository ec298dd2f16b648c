"""EDF, EDF+ and BDF, with gaps or without: the header is written anew, samples stay byte for byte, notes go by the rules for notes.

Of the patient stay a pseudonym, the sex and the age in whole years (as a birthday on the day of the recording); of the recording the
day, moved. Transducers, reserved fields and whatever follows a note's end do not come along. A signal's label stays where it names an
electrode, a lead or a sensor.

Source: Kemp and Olivan 2003, EDF+ 2.1.3 (header) and 2.2.2 (annotations); its standard texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

from ...schema import Record
from .. import edf as reader
from ..source import RecordError
from .cleaning import Cleaning
from .keyed import moved_time
from .known import Known
from .naming import person_by_name
from .options import OLDEST
from .words import words

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_FIELDS = {
    "label": 16, "transducer": 80, "dimension": 8, "least": 8, "most": 8, "digital least": 8, "digital most": 8, "filter": 80,
    "samples": 8, "reserved": 32,
}  # fmt: skip
"""Of each signal, in the header's order, and their widths."""
_NUMBER = re.compile(r"[-+]?[\d.]{1,8}(?:[eE][-+]?\d{1,2})?")
_UNITS = frozenset(
    re.split(
        " ",
        "uv µv mv v nv % bpm mmhg cmh2o pa kpa degc degf c f l/min ml/s ml l g mg hz ohm kohm ms s m mm cm m/s m/s^2 au "
        "a.u. rad deg db lux bar mbar mol/l 1/min us t ft boolean -",
    )
)
_FILTER = re.compile(r"(?:(?:HP|LP|N|BP)\s*:\s*(?:DC|[\d.]{1,8}\s*k?(?:Hz)?)\s*|none|\s)*", re.IGNORECASE)
_ELECTRODE = re.compile(r"[A-Z]{1,5}\d{1,2}|(?:FP|AF|FC|FT|CP|TP|PO|[FCTPOINAM])[ZH]|[A-Z]|AV[RLF]", re.IGNORECASE)
_SENSORS = frozenset(
    re.split(
        " ",
        "eeg ecg ekg eog erg emg meg mcg ep temp resp sao2 spo2 light sound event marker status position pressure flow "
        "airflow nasal oral oro oronasal thoracic thorax abdominal abdomen abdo chest effort snore snoring chin "
        "submental leg legs tib tibialis ant anterior horizontal vertical rectal pulse pleth hr pr rate heart body loc "
        "roc ref lat rat trigger stim gsr accel acc edf bdf annotations rem k arm etco2 co2 battery mic therm cannula "
        "left right l r ii iii",
    )
)
_NOTED = _SENSORS | frozenset(
    re.split(
        " ",
        "sleep stage w n wake nrem movement time lights off on arousal arousals apnea apnoea obstructive central mixed "
        "hypopnea hypopnoea rera desaturation bradycardia tachycardia limb periodic spindle spindles complex sharp wave "
        "spike seizure onset offset artifact artefact eyes open closed photic stimulation hyperventilation hv start "
        "starts stop begin end ends recording calibration stimulus impedance",
    )
)
"""Words of sensors, and of the notes that EDF+ has for everybody."""
_ONSET = re.compile(rb"[-+]\d{1,9}(?:\.\d{0,9})?(?:\x15\d{1,9}(?:\.\d{0,9})?)?")


def _words_of(head: bytes, start: int) -> list[str]:
    return head[start : start + 80].decode("latin-1").split()


def _is_plus(head: bytes) -> bool:
    return head[192:196] in (b"EDF+", b"BDF+")


def survey(path: Path, place: str, known: Known) -> str:
    """Whose it is, by its header or else its name; who is named there."""
    records = [r for r in reader.read(path, path.parents[place.count("/")]) if isinstance(r, Record)]
    with path.open("rb") as file:
        head = file.read(256)
    who = person_by_name(place) if records[0].attributes["anonymous"] else records[0].patient
    said, taken = _words_of(head, 8), _words_of(head, 88)
    for word in [*said, *taken]:
        if re.search(r"\d", word) and not re.fullmatch(r"\d\d-\w{3}-\d{4}", word):
            known.identify(word)
    names = said[3:] if _is_plus(head) else [w for w in said if w.casefold() not in words("plain") | words("frequent")]
    known.name(who, " ".join(names).replace("_", " "))
    if _is_plus(head):
        known.name(None, " ".join(taken[3:4]).replace("_", " "))  # who recorded it
    return who


def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the recording anew.

    Raises:
        RecordError: a field or a note is none, or it would not read once it is clean.
    """
    record = next(r for r in reader.read(path, path.parent) if isinstance(r, Record))
    with path.open("rb") as file, to.open("wb") as out:
        head = file.read(256)
        count, width = int(head[252:256]), 3 if head[0] == 0xFF else 2
        columns = {name: [_text(file.read(size)) for _ in range(count)] for name, size in _FIELDS.items()}
        labels = columns["label"]
        sizes = [int(n) * width for n in columns["samples"]]
        out.write(_main(head, record, cleaning))
        for name, size in _FIELDS.items():
            for number, value in enumerate(columns[name]):
                new = _field(name, value, number, cleaning)
                if new != value:
                    cleaning.did(f"signal {number + 1} {name}", "X")
                out.write(new.encode("ascii", "replace").ljust(size)[:size])
        numbers = iter(range(1, 10**9))
        for _ in range(int(head[236:244])):
            for label, size in zip(labels, sizes, strict=True):
                data = file.read(size)
                out.write(_notes(data, numbers, cleaning) if label in reader.NOT_SIGNALS else data)
    for _ in reader.read(to, to.parent):
        pass


def _text(data: bytes) -> str:
    return data.decode("latin-1").strip()


def _main(head: bytes, record: Record, cleaning: Cleaning) -> bytes:
    """The first 256 bytes."""
    numbers = [_text(head[a:b]) for a, b in ((184, 192), (236, 244), (244, 252), (252, 256))]
    hour, kind = head[176:184], re.match(rb"(?:EDF|BDF)\+[CD]|24BIT", head[192:236])
    if not all(map(_NUMBER.fullmatch, numbers)) or not re.fullmatch(rb"\d\d[.:]\d\d[.:]\d\d", hour):
        raise RecordError("an EDF header with words where it has numbers", "numbers", "check what wrote it")
    began = record.time and record.time - timedelta(seconds=float(record.attributes.get("onset_s") or 0))
    taken = began and moved_time(began, cleaning.days) if cleaning.options.dates == "shift" else None
    taken = taken if taken and 1985 <= taken.year <= 2084 else None  # the years that its two digits can tell
    told = f"{taken:%d}-{_MONTHS[taken.month - 1]}-{taken.year}" if taken else "X"
    device = (_words_of(head, 88)[4:5] or ["X"])[0] if cleaning.options.retain_device and _is_plus(head) else "X"
    cleaning.did("patient and recording", "C")
    cleaning.did("start", "C: date moved" if taken else "X")
    fields = (
        (8, 80, _patient(record, taken, cleaning) if _is_plus(head) else "X X X X"), (88, 80, f"Startdate {told} X X {device}"),
        (168, 8, f"{taken:%d.%m.%y}" if taken else "01.01.85"), (176, 8, hour.decode()), (184, 8, numbers[0]),
        (192, 44, kind[0].decode() if kind else ""), (236, 8, numbers[1]), (244, 8, numbers[2]), (252, 4, numbers[3]),
    )  # fmt: skip
    version = b"\xffBIOSEMI" if head[0] == 0xFF else b"0".ljust(8)
    return version + b"".join(value.encode("ascii", "replace").ljust(size)[:size] for _, size, value in fields)


def _patient(record: Record, taken: datetime | None, cleaning: Cleaning) -> str:
    """Code, sex, birthday and name, as EDF+ has them."""
    code = "X" if record.attributes["anonymous"] else cleaning.key.pseudonym(record.patient)
    age, sex = record.attributes["age"], record.attributes["sex"]
    born = None
    if taken and isinstance(age, int | float) and age >= 0:
        year = taken.year - min(int(age), OLDEST)
        born = date(year, taken.month, min(taken.day, 28) if taken.month == 2 else taken.day)
    if not cleaning.options.retain_characteristics:
        born, sex = None, None
    told = f"{born:%d}-{_MONTHS[born.month - 1]}-{born.year}" if born else "X"
    return f"{code} {sex if sex in ('F', 'M') else 'X'} {told} X"


def _field(name: str, value: str, number: int, cleaning: Cleaning) -> str:
    """A field of one signal anew."""
    match name:
        case "label":
            return value if value in reader.NOT_SIGNALS or _all(value, _SENSORS, cleaning) else f"signal {number + 1}"
        case "dimension":
            return value if value.lower() in _UNITS else ""
        case "filter":
            return value if _FILTER.fullmatch(value) else ""
        case "transducer" | "reserved":
            return ""
    if not _NUMBER.fullmatch(value):
        raise RecordError("an EDF header with words where it has numbers", "numbers", "check what wrote it")
    return value


def _all(text: str, among: frozenset[str], cleaning: Cleaning) -> bool:
    """Whether each of its words is one of those, an electrode or a short number, and none is known to be somebody's."""
    parts = re.findall(r"[^\W_]+", text)
    told = (p.casefold() in among or _ELECTRODE.fullmatch(p) or re.fullmatch(r"\d{1,3}", p) for p in parts)
    return all(told) and not cleaning.says_who(text)


def _notes(data: bytes, numbers: Iterator[int], cleaning: Cleaning) -> bytes:
    """The notes of one data record, in as many bytes."""
    found: list[tuple[bytes, list[bytes]]] = []
    for one in filter(None, data.split(b"\0")):
        onset, *said = one.split(b"\x14")
        if not _ONSET.fullmatch(onset) or not said or said.pop():
            raise RecordError(
                "a note in an EDF recording that is none", "onset, duration, words", "check what wrote it"
            )
        found.append((onset, said))
    new = [[_note(text, next(numbers) if text else 0, cleaning) for text in said] for _, said in found]
    pack = lambda lists: b"".join(
        b"\x14".join([onset, *said, b""]) + b"\0" for (onset, _), said in zip(found, lists, strict=True)
    )
    packed = pack(new)
    if len(packed) > len(data):  # what was put in a name's place may be longer than the name
        short = lambda text, old: text[: len(old)].decode("utf-8", "ignore").encode()
        packed = pack(
            [[short(t, o) for t, o in zip(said, old, strict=True)] for said, (_, old) in zip(new, found, strict=True)]
        )
    return packed.ljust(len(data), b"\0")


def _note(said: bytes, number: int, cleaning: Cleaning) -> bytes:
    text = said.decode("utf-8", "replace")
    if _all(text, _NOTED, cleaning):
        return said
    return cleaning.words(text, f"note {number}", light=False).encode()
