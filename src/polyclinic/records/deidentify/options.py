"""What may be chosen, and what is chosen where nothing is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

OLDEST = 90
"""Ages of this and above become this (45 CFR 164.514(b)(2)(i)(C))."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a folder is de-identified.

    Args:
        dates: `shift` moves all dates of a patient by one secret number of days (PS3.15, Retain Longitudinal Temporal Information
            Modified Dates Option); `remove` empties them.
        clean_descriptors: keep the harmless words of DICOM's descriptions, which are otherwise removed.
        retain_device: keep the devices' serial numbers and names of stations.
        retain_characteristics: keep sex, age (90 and over as 90), size and weight.
        burned_in: `aside` sets images aside that look as if text were burned in, or are of a kind that often has some; `keep` copies
            them and lists the boxes; `blank` blacks out the boxes, lists them, and lists those kinds.
        quasi_identifiers: columns by which a person could be singled out in a table; None finds age, sex, postcode and the like.
        k: suppress until each combination of them is shared by as many people; None only measures.
        keep_words: further words, in lower case, that may stay in names of files and folders, and in descriptors.
    """

    dates: Literal["shift", "remove"] = "shift"
    clean_descriptors: bool = False
    retain_device: bool = False
    retain_characteristics: bool = True
    burned_in: Literal["aside", "keep", "blank"] = "aside"
    quasi_identifiers: tuple[str, ...] | None = None
    k: int | None = None
    keep_words: frozenset[str] = frozenset()

    def as_data(self) -> dict[str, Any]:
        """For the report."""
        return {
            "dates": self.dates, "clean_descriptors": self.clean_descriptors, "retain_device": self.retain_device,
            "retain_characteristics": self.retain_characteristics, "burned_in": self.burned_in, "k": self.k,
        }  # fmt: skip
