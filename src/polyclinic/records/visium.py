"""The tissue image of a Visium section (10x Genomics): two PNGs beside the scale that lays them under the spots (`pillow`).

Space Ranger writes `spatial/tissue_hires_image.png` (2000 pixels), `tissue_lowres_image.png` (600), both of one scan, and
`scalefactors_json.json`: how much smaller each is than the scan, and how many of the scan's pixels a circle of 65 µm spans
(`spot_diameter_fullres`). So the scan's µm a pixel are known, though the scan is not here. `tissue_positions_list.csv` (later
`tissue_positions.csv`, with a header) has a spot a row, of which is counted how many lie on tissue. The counts are `omics`'.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path, PurePosixPath

import numpy as np

from ..schema import Scalar
from .naming import patient_of
from .pyramid import Level, Pyramid
from .source import Lines, RecordError, check_size

SPOT_UM = 65.0
"""Of the circle that `spot_diameter_fullres` is about; the printed spots are 55, their centres 100 apart."""
_NAMES = {"tissue_hires_image.png": "tissue_hires_scalef", "tissue_lowres_image.png": "tissue_lowres_scalef"}
_SCALES = "scalefactors_json.json"
_POSITIONS = ("tissue_positions_list.csv", "tissue_positions.csv")
_BESIDE = {
    _SCALES: "the scale of a Visium section's pictures",
    **dict.fromkeys((*_POSITIONS, "tissue_positions.parquet"), "the places of a Visium section's spots"),
}
_MOST_SPOTS = 100_000
"""The densest array of this form has fifteen thousand."""
_ABOVE = {"spatial", "outs"}


def mine(path: Path) -> bool:
    """Whether it is one of the two, by its name and the scale beside it."""
    return path.name in _NAMES and path.with_name(_SCALES).is_file()


def beside(path: Path) -> str | None:
    """What a file is that is read with a section's picture and is no record; None for any other."""
    return _BESIDE.get(path.name) if path.name == _SCALES or path.with_name(_SCALES).is_file() else None


def companions(path: Path) -> tuple[Path, ...]:
    """The files that a picture is read with; the other picture decides which of the two is taken."""
    return tuple(p for name in (*_BESIDE, *_NAMES) if (p := path.with_name(name)) != path and p.is_file())


def spots(path: Path) -> dict[str, Scalar]:
    """How many spots the section beside a picture has, and how many of them lie on tissue; nothing where no table of them can be read.

    Its columns are barcode, in_tissue (0 or 1), row, column, and the place in the scan's pixels.
    """
    table = next((p for name in _POSITIONS if (p := path.with_name(name)).is_file()), None)
    if table is None:
        return {}
    tissue: list[bool] = []
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.reader(Lines(file)):
                if len(row) == 6 and row[1] in ("0", "1") and len(tissue) < _MOST_SPOTS:
                    tissue.append(row[1] == "1")
    except (RecordError, UnicodeDecodeError, csv.Error):
        return {}
    return {"spots": len(tissue), "spots_in_tissue": sum(tissue)}


def patient(place: str, stem: str) -> str:
    """Whose section it is: what its folder, above `spatial` and `outs`, is called; its own name says nothing.

    Args:
        place: of the file, below the ingested folder.
        stem: of its name.
    """
    folders = [f for f in PurePosixPath(place).parent.parts if f not in _ABOVE]
    return patient_of(place, folders[-1] if folders else stem) or (folders[-1] if folders else stem)


def mpp_of(path: Path) -> float | None:
    """µm a pixel of the picture; None where the scale is none."""
    try:
        with path.with_name(_SCALES).open("rb") as file:
            said = json.loads(file.read(1 << 16))
        mpp = SPOT_UM / (float(said["spot_diameter_fullres"]) * float(said[_NAMES[path.name]]))
    except (ValueError, KeyError, TypeError, ZeroDivisionError, RecursionError):
        return None
    return mpp if 0 < mpp < 1000 else None


def pyramid(path: Path) -> Pyramid:
    """The slide of one level that a picture is.

    Raises:
        RecordError: it is not whole, or shows nothing.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            check_size((image.height, image.width, 4), 1)
            pixels = np.asarray(image.convert("RGB"))
    except RecordError:
        raise
    except Exception as error:
        raise RecordError(
            f"an image that does not open ({type(error).__name__})", "a whole PNG", "copy it again"
        ) from error
    if (pixels == pixels[:1, :1]).all():
        raise RecordError("a tissue image of one colour", "tissue", "leave it out, or put the picture back")
    mpp = mpp_of(path)
    to_world = None if mpp is None else np.diag([mpp / 1000, mpp / 1000, 1.0, 1.0])
    read = lambda left, top, wide, tall: pixels[top : top + tall, left : left + wide]
    return Pyramid((Level(pixels.shape[1], pixels.shape[0], read),), to_world)


def copy_of(path: Path) -> Path | None:
    """The larger picture of the same scan, where that is there and shows something; None where this is the one to take."""
    larger = path.with_name("tissue_hires_image.png")
    if path == larger or not larger.is_file():
        return None
    try:
        pyramid(larger)
    except RecordError:
        return None
    return larger
