"""What the header of one instance of a DICOM slide says: its size, its scale and place, its specimen's stain (`pydicom`).

Source: DICOM PS3.3 C.8.12.4 (whole slide image), C.8.12.2 (slide coordinates); PS3.16 TID 8003 (staining).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import stack
from .dicom_header import first, opened, spacing_of, text
from .pyramid import LARGEST_TILE
from .source import RecordError, check_size

_STAINING, _SUBSTANCE = {"127790008", "P3-00003"}, {"424361007", "G-C350"}
"""Processing type and `using substance`, in SNOMED CT and in SRT (PS3.16 TID 8003)."""
_GREY, _COLOUR = {"MONOCHROME1", "MONOCHROME2"}, {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance's header: a level, a part of one, or a picture beside them."""

    path: Path
    dataset: Any

    @property
    def role(self) -> str:
        """VOLUME, LABEL, OVERVIEW or THUMBNAIL: value 3 of Image Type, PS3.3 C.8.12.4.1.1."""
        values = list(self.dataset.get("ImageType") or ())
        return str(values[2]) if len(values) > 2 else "VOLUME"

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of the total pixel matrix."""
        return int(self.dataset.TotalPixelMatrixColumns), int(self.dataset.TotalPixelMatrixRows)

    @property
    def tile(self) -> tuple[int, int]:
        """Columns and rows of a frame."""
        return int(self.dataset.Columns), int(self.dataset.Rows)

    @property
    def spacing(self) -> tuple[float, float] | None:
        """mm between rows and between columns: the pixel measures', or that of the imaged volume."""
        measures = first(first(self.dataset, "SharedFunctionalGroupsSequence"), "PixelMeasuresSequence")
        if found := spacing_of(measures):
            return found
        sides = [float(self.dataset.get(f"ImagedVolume{side}") or 0) for side in ("Height", "Width")]
        return (sides[0] / self.size[1], sides[1] / self.size[0]) if min(sides) > 0 else None

    @property
    def path_id(self) -> str:
        """The first optical path."""
        return text(first(self.dataset, "OpticalPathSequence"), "OpticalPathIdentifier")


def instance(path: Path) -> Instance:
    """A header that may be trusted with the reading.

    Raises:
        RecordError: what is missing, or would take more than it has.
    """
    dataset = opened(path, pixels=False)
    found = Instance(path, dataset)
    if found.role != "VOLUME":
        return found
    for keyword in (
        "Rows",
        "Columns",
        "TotalPixelMatrixRows",
        "TotalPixelMatrixColumns",
        "BitsAllocated",
        "BitsStored",
    ):
        if not dataset.get(keyword):
            raise RecordError(
                f"a slide without {keyword}", "the tiles' and the whole's size (PS3.3 C.8.12.4)", "export it again"
            )
    photometric, samples = text(dataset, "PhotometricInterpretation"), int(dataset.get("SamplesPerPixel") or 1)
    if (photometric, samples) not in {*((p, 1) for p in _GREY), *((p, 3) for p in _COLOUR)}:
        raise RecordError(
            f"a slide of {samples} samples a pixel, {photometric or 'unnamed'}",
            "RGB, YBR or MONOCHROME",
            "leave it out",
        )
    if int(dataset.BitsAllocated) not in (8, 16) or (samples == 3 and int(dataset.BitsAllocated) != 8):
        raise RecordError(f"a slide of {dataset.BitsAllocated} bits", "8, or 16 of a grey one", "leave it out")
    if text(dataset, "SpecimenLabelInImage") == "YES":
        raise RecordError("a slide with its label in the picture", "the tissue alone", "export it without its label")
    check_size((*found.size, samples), 0)
    if found.tile[0] * found.tile[1] * samples * int(dataset.BitsAllocated) // 8 > LARGEST_TILE:
        raise RecordError(
            f"frames of {found.tile[0]} × {found.tile[1]} pixels", f"at most {LARGEST_TILE >> 20} MiB a frame", "tile it smaller"
        )  # fmt: skip
    return found


def to_world(head: Instance) -> np.ndarray | None:
    """4x4 index of the total pixel matrix → mm of the slide's coordinate system, PS3.3 C.8.12.2; without an origin, from (0, 0)."""
    spacing = head.spacing
    if spacing is None:
        return None
    origin = first(head.dataset, "TotalPixelMatrixOriginSequence")
    place = [float(origin.get(f"{axis}OffsetInSlideCoordinateSystem") or 0) for axis in "XY"]
    try:
        cosines = np.array([float(v) for v in head.dataset.get("ImageOrientationSlide") or (1, 0, 0, 0, 1, 0)]).reshape(
            2, 3
        )
    except ValueError:
        cosines = np.zeros((2, 3))
    if not np.allclose(cosines @ cosines.T, np.eye(2), atol=1e-2):
        raise RecordError(
            "a slide whose orientation is none", "two right-angled directions (0048,0102)", "export it again"
        )
    return stack.plane(spacing, np.array([*place, 0.0]), cosines)


def stain_of(dataset: Any) -> str | None:
    """By the codes of the specimen's preparation (PS3.16 TID 8003): "H&E", or the substances' names; None where none is coded.

    Words that somebody typed are left out: they may be about anything.
    """
    names: list[str] = []
    specimen = first(dataset, "SpecimenDescriptionSequence")
    for step in specimen.get("SpecimenPreparationSequence") or ():
        items = step.get("SpecimenPreparationStepContentItemSequence") or ()
        coded = [
            (text(first(i, "ConceptNameCodeSequence"), "CodeValue"), first(i, "ConceptCodeSequence")) for i in items
        ]
        if any(text(value, "CodeValue") in _STAINING for _, value in coded):
            names += [text(value, "CodeMeaning").lower() for name, value in coded if name in _SUBSTANCE]
    said = [n.replace("water soluble ", "").removesuffix(" stain") for n in dict.fromkeys(names) if n]
    if len(said) == 2 and {"hematoxylin", "haematoxylin"} & set(said) and "eosin" in said:
        return "H&E"
    return ", ".join(said) or None
