"""Expression matrices in HDF5: AnnData's .h5ad and 10x's .h5. One OMICS record a patient of cells, or a sample.

Where observations are cells or spots (their names are barcodes, or a patient has over ten of them) a patient's counts are summed
to a pseudo-bulk profile. Where they are samples, each is a record. What is summed are the counts, wherever the file keeps them
(`layers/counts`, `raw/X`, `X`); of a file without counts, the mean of `X` is taken. The decoding is `hdf5.py`'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import MissingExtraError, Modality, Payload, Record, Rejected, Scalar
from . import apart, genes, tables
from .naming import patient_of
from .source import RecordError, content_id, parse_time, part_number, place_id, place_of, split_uri

MAGIC = b"\x89HDF\r\n\x1a\n"
DONOR_COLUMNS = (
    *tables.PATIENT_COLUMNS,
    "donorid",
    "donor",
    "individualid",
    "individual",
    "casesubmitterid",
    "bcrpatientbarcode",
)
SPOT_MM = 0.065
"""Across a Visium spot as `spot_diameter_fullres` counts it in pixels (10x Genomics, Space Ranger's spatial outputs)."""
WINDOW_BYTES = 2**26
"""Of the profiles that are kept at once, because records of one file are loaded one after the other."""


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is an HDF5 file named .h5ad, .h5 or .hdf5."""
    return head.startswith(MAGIC) and path.suffix.lower() in {".h5ad", ".h5", ".hdf5"}


def checked(path: Path) -> str:
    """The path, for another process; a file that was cut short needs none.

    Raises:
        RecordError: it ends before its superblock says that it does (HDF5 file format 3.0, II.A).
    """
    if find_spec("h5py") is None:
        raise MissingExtraError("anndata", "omics")
    with path.open("rb") as file:
        head = file.read(128).ljust(128, b"\0")
    sizes, at = (head[13], 40) if head[8] < 2 else (head[9], 28)
    at += 4 * (head[8] == 1)
    if head[8] > 3 or sizes != 8 or int.from_bytes(head[at : at + 8], "little") > path.stat().st_size:
        raise RecordError("an HDF5 file that was cut short", "a whole file", "copy it again")
    return str(path.resolve())


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """The records of a file, `#sample=3`; rows of nobody are set aside together."""
    place, source = place_of(path, root), content_id(path)
    with apart.decoded("hdf5", "described", checked(path), DONOR_COLUMNS) as items:
        about = next(items)
        if about["nobody"]:
            yield Rejected(
                place, f"{about['nobody']} rows without a patient", f"a value in {about['column']!r}", "fill it in"
            )
        for number, group in enumerate(items):
            uri, name = f"{place}#sample={number}", group["who"]
            if name == "" and not about["cells"]:
                yield Rejected(uri, f"row {number} without a patient", f"a value in {about['column']!r}", "fill it in")
                continue
            who = _patient(name, about, path, place)
            yield Record(
                id=place_id(source, f"sample={number}"),
                patient=who,
                modality=Modality.OMICS,
                kind="single-cell RNA-seq" if about["cells"] else "RNA-seq" if about["counts"] else "omics",
                uri=uri,
                **_times_and_places(group["about"]),
                attributes=_attributes(about, group, path),
            )


def _patient(name: str | None, about: dict[str, Any], path: Path, place: str) -> str:
    """Whose a group is: the file says, or its folder (a 10x run has one sample).

    Raises:
        RecordError: rows are samples of which nothing says whose they are.
    """
    if name is None:
        stem = re.sub(r"_?(filtered|raw)_(feature|probe)_bc_matrix", "", path.name.split(".")[0])
        folders = [f for f in place.split("/")[:-1] if f != "outs"]  # as `visium` has it of the section's picture
        return patient_of(place, stem) or stem or (folders[-1] if folders else path.name.split(".")[0])
    barcode = genes.patient_of_sample(name)
    if about["by_name"] and barcode is None and tables.plain(about["column"]) not in DONOR_COLUMNS:
        raise RecordError(
            f"a table with the columns {', '.join(about['columns'][:12]) or 'none'}",
            "one that names the patient: " + ", ".join(DONOR_COLUMNS), "add it to obs",
        )  # fmt: skip
    return barcode or tables.identifier(name)


def _times_and_places(about: dict[str, Any]) -> dict[str, Any]:
    when, where = tables.find(list(about), tables.TIME_COLUMNS), tables.find(list(about), tables.SITE_COLUMNS)
    site = about[where] if where else None
    return {
        "time": parse_time(str(about[when])) if when else None,
        "site": tables.identifier(str(site)) if site is not None and tables.typed(str(site)) is not None else None,
    }


def _attributes(about: dict[str, Any], group: dict[str, Any], path: Path) -> dict[str, Scalar]:
    said = {
        name: tables.typed(value) if isinstance(value, str) else _number(value)
        for name, value in group["about"].items()
    }
    more: dict[str, Scalar] = {"genes": about["genes"], "counts": about["counts"], "matrix": about["matrix"]}
    if about["cells"]:
        more["cells"] = group["n"]
    if about["layers"]:
        more["layers"] = ", ".join(about["layers"])
    if group["who"] is None:
        more |= {"anonymous": True, "spatial": _spots(path) is not None}
    return said | more


def _number(value: Any) -> Scalar:
    return value if isinstance(value, bool) else float(value) if np.isfinite(value) else None


def _spots(path: Path) -> np.ndarray | None:
    """(n 4) where the tissue's spots lie in the section, x and y in mm; None where no `spatial/` lies beside.

    Source: Space Ranger's tissue positions: barcode, in tissue, row and column of the array, row and column of the pixel.
    """
    folder = path.parent / "spatial"
    files = [f for n in ("tissue_positions_list.csv", "tissue_positions.csv") if (f := folder / n).is_file()]
    try:
        scale = json.loads((folder / "scalefactors_json.json").read_text())["spot_diameter_fullres"]
        rows = [line.split(",") for line in files[0].read_text().splitlines()]
        spots = [(float(r[5]), float(r[4])) for r in rows if r[1] == "1"]
        mm = SPOT_MM / float(scale)
    except (OSError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    places = np.zeros((len(spots), 4))
    places[:, :2] = np.array(spots).reshape(-1, 2) * mm
    return places


@lru_cache(maxsize=2)
def _profiles(path: Path, changed: int, window: int, size: int) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the genes and (w g) float32 profiles of the groups in a window of `size`."""
    with apart.decoded("hdf5", "profiles", checked(path), DONOR_COLUMNS, window * size, (window + 1) * size) as items:
        names, counts = next(items), next(items)
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # what float32 cannot hold is infinite, and infinite is not known
            rows = np.array([row.astype(np.float32) for row in items], np.float32).reshape(-1, len(names))
        return genes.once(names, np.where(np.isfinite(rows), rows, np.float32(np.nan)), counts)


def load(record: Record) -> Payload:
    """array (g,) float32, a patient's sum of counts (or mean of other values), names the genes, each once.

    `places` are the spots of a Visium section, in mm.

    Raises:
        RecordError: the sample is gone.
    """
    path, number = Path(split_uri(record.uri)[0]), part_number(record.uri, "sample") or 0
    size = max(1, WINDOW_BYTES // (4 * max(1, int(record.attributes.get("genes") or 1))))
    names, rows = _profiles(path, path.stat().st_mtime_ns, number // size, size)
    if number % size >= len(rows):
        raise RecordError(f"no sample {number} in {path.name}", "the file as ingested", "ingest it again")
    return Payload(rows[number % size], names=names, places=_spots(path) if record.attributes.get("spatial") else None)
