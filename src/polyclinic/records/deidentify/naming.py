"""What a file or folder may be called: harmless words and short numbers stay, everything else gets its pseudonym, the same everywhere.

So a mask still lies under its image's name, and a table's column of file names still finds its files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..kinematics import TRIAL, surgeon
from ..naming import patient_of, without_mask
from .keyed import UID, UUID, Key
from .known import Known
from .words import words

_ENDING = re.compile(
    r"(?:\.(?:nii|csv|tsv|txt|tar|gct|vcf|maf|maf\.txt))?\.(?:b?gz|zip)$"
    r"|(?:\.maf)?\.(?:nii|csv|tsv|txt|text|json|ndjson|dcm|dicom|ima|png|jpe?g|tiff?|hea|dat|mat|atr|edf|bdf|pdf|xml|parquet|feather|arrow|h5ad"
    r"|h5|hl7|xlsx|xlsm|xls|xlsb|ods|svs|ndpi|scn|bif|mrxs|czi|mp4|m4v|mov|mkv|webm|avi|mpe?g|ts|wmv|bag|db3|mcap|gct|vcf|maf)$",
    re.IGNORECASE,
)


def split_ending(name: str) -> tuple[str, str]:
    """The stem and what says the format; an ending that is none of the known ones belongs to the stem."""
    found = _ENDING.search(name)
    return (name[: found.start()], found[0]) if found else (name, "")


@dataclass(frozen=True, slots=True)
class Namer:
    """Gives files and folders their new names."""

    key: Key
    known: Known
    keep: frozenset[str] = frozenset()

    def place(self, place: str) -> str:
        """The new place of a file below the folder."""
        *folders, name = PurePosixPath(place).parts
        return "/".join([*map(self.word, folders), self.file(name)])

    def file(self, name: str) -> str:
        """The new name of a file: its ending stays."""
        stem, ending = split_ending(name)
        if not ending and "." in stem:
            head, _, tail = stem.rpartition(".")
            if re.fullmatch(r"[A-Za-z]{1,4}", tail) and head:
                return f"{self.word(head)}.{tail.lower()}"
        return self.word(stem) + ending

    def word(self, stem: str) -> str:
        """The new name of a stem: known identifiers first, the longest of them, then each part that is no harmless word.

        A trial of JIGSAWS keeps its form, so that its motion, its gestures and its videos still have one name.
        """
        if (trial := TRIAL.match(stem)) and trial[0].casefold() in self.known.trials:
            task, rest = self.word(trial[1].strip("_")), stem[trial.end() :]
            return f"{task}_{self.key.pseudonym(surgeon(trial))}-{trial[3]}{self.word(rest) if rest else ''}"
        if (
            found := UUID.fullmatch(stem) or UID.fullmatch(stem)
        ) or stem.casefold() in self.known.ids | self.known.patients:
            return self.key.pseudonym(found[0] if found else stem)
        parts = [m.span() for m in re.finditer(r"[^\W_]+", stem)]
        new, last, number = [], 0, 0
        while number < len(parts):
            start, stop, after = self._longest(stem, parts, number)
            mine = number == 0 and stem[start:stop].casefold() in self.known.patients
            new += [self._gap(stem[last:start]), self._part(stem[start:stop], mine or after > number + 1)]
            last, number = stop, after
        return "".join(new) + self._gap(stem[last:]) or "x"

    def _longest(self, stem: str, parts: list[tuple[int, int]], first: int) -> tuple[int, int, int]:
        start = parts[first][0]
        for last in range(min(len(parts), first + 8) - 1, first, -1):
            whole = stem[start : parts[last][1]]
            if whole.casefold() in self.known.ids or UUID.fullmatch(whole) or UID.fullmatch(whole):
                return start, parts[last][1], last + 1
        return start, parts[first][1], first + 1

    def _part(self, part: str, known: bool) -> str:
        plain = part.casefold()
        if known or plain in self.known.ids:
            return self.key.pseudonym(part)
        numbered = re.fullmatch(r"([a-z]*)(\d{0,4})", plain) or re.fullmatch(r"()\d{1,4}(?:x|px)", plain)  # 20x_512px
        word = numbered is not None and (not numbered[1] or numbered[1] in words("plain") or numbered[1] in self.keep)
        if plain not in self.known.parts and (
            plain in words("plain") or plain in self.keep or (word and not _year(plain))
        ):
            return part
        return self.key.pseudonym(part)

    @staticmethod
    def _gap(text: str) -> str:
        return re.sub(r"[^-_. ,()+=\[\]#&@]", "", text)


def _year(text: str) -> bool:
    return bool(re.fullmatch(r"(18|19|20|21)\d\d", text))


def person_by_name(place: str) -> str:
    """Whose a file is that does not say so itself, as the readers have it."""
    stem = without_mask(split_ending(PurePosixPath(place).name)[0])
    return patient_of(place, stem) or stem


def pictured(place: str) -> str:
    """Whose a picture is: the first part of its name, where that has a digit."""
    who = person_by_name(place)
    first = who.split("_")[0]
    return first if re.search(r"\d", first) else who
