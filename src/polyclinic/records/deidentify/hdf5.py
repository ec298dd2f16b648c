"""HDF5 by a table of what may stay: 10x feature-barcode matrices, and features of a slide's tiles (CLAM, TRIDENT).

The file is written anew, dataset by dataset; what is in no table (datasets, attributes, comments, links) does not come along.

Source: 10x Genomics, feature-barcode matrices in HDF5 (version 3); what CLAM and TRIDENT write.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...schema import Record
from .. import apart, h5ad, slide_features
from ..source import RecordError
from . import samples
from .cleaning import Cleaning
from .known import Known

BARCODE = re.compile(r"[ACGT]{12,}(?:-\d+)?")
_LIBRARY = re.compile(r"(?:-\d+)?$")
_ROWS = 1 << 14
_Word = Callable[[str, Cleaning], str]
_TILES: dict[str, _Word | None] = {"features": None, "coords": None}
_TILING = frozenset(
    {
        "patch_size", "patch_size_level0", "patch_size_lv0", "patch_level", "target_patch_size", "downsample", "downsampled_level_dim",
        "level_dim", "level0_mpp", "mpp_level0", "mpp", "level0_magnification", "level0_width", "level0_height", "target_magnification",
        "overlap", "step_size", "stride",
    }
)  # fmt: skip
"""Attributes that say how a slide was tiled: numbers, each of them."""


def barcode(name: str, cleaning: Cleaning) -> str:
    """A cell's barcode is no one's; what is written before it is a sample's name."""
    if BARCODE.fullmatch(name):
        return name
    found = next((m for m in BARCODE.finditer(name) if name.endswith(m[0])), None)
    library = _LIBRARY.search(name)
    return f"{cleaning.key.pseudonym(name[: found.start()] if found else name)}{'_' + found[0] if found else library[0] if library else ''}"


def gene(name: str, cleaning: Cleaning) -> str:
    """A gene is no one's, unless somebody is called so."""
    whole = name.casefold()
    return cleaning.key.pseudonym(name) if whole in cleaning.known.ids or whole in cleaning.known.patients else name


_MATRIX: dict[str, _Word | None] = {
    "matrix/barcodes": barcode, "matrix/data": None, "matrix/indices": None, "matrix/indptr": None, "matrix/shape": None,
    "matrix/filtered_barcodes": None, "matrix/features/id": gene, "matrix/features/name": gene, "matrix/features/gene_name": gene,
    "matrix/features/feature_type": gene, "matrix/features/genome": gene, "matrix/features/_all_tag_keys": gene,
}  # fmt: skip
"""Datasets that stay: numbers, and words that are cleaned one by one."""
_RUN: dict[str, Callable[[Any, Cleaning], Any]] = {
    "filetype": lambda value, cleaning: "matrix",
    "version": lambda value, cleaning: np.int64(value),
    "original_gem_groups": lambda value, cleaning: np.asarray(value, np.int64),
    "library_ids": lambda value, cleaning: np.array(
        [samples.renamed(name, cleaning).encode() for name in _texts(value)], "S"
    ),
}
"""Attributes of a 10x file that stay, and how each is written."""


def is_tenx(path: Path, head: bytes) -> bool:
    """Whether it is a 10x matrix."""
    if not h5ad.recognises(path, head) or path.suffix.lower() == ".h5ad":
        return False
    try:
        with apart.decoded("hdf5", "described", h5ad.checked(path), h5ad.DONOR_COLUMNS) as items:
            return next(items)["matrix"] == "matrix"
    except RecordError:
        return False  # what is wrong with it is for AnnData's row to say


def survey_tenx(path: Path, place: str, known: Known) -> str | None:
    """Whose it is, by its folder or name, and which samples its cells are of."""
    import h5py

    (record,) = h5ad.read(path, path.parents[place.count("/")])
    with h5py.File(path, "r") as file:
        samples.note(_texts(file.attrs.get("library_ids", ())), known)
    return record.patient if isinstance(record, Record) else None


def deidentify_tenx(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the matrix anew: counts and genes as they are, barcodes without the samples' names.

    Raises:
        RecordError: a dataset is of words where numbers belong.
    """
    import h5py

    with h5py.File(path, "r") as old, h5py.File(to, "w") as new:
        _copy(old, new, _MATRIX, cleaning)
        for name, value in old.attrs.items():
            if name in _RUN:
                new.attrs[name] = _RUN[name](value, cleaning)
            else:
                cleaning.did("an attribute", "X")


def survey_tiles(path: Path, place: str, known: Known) -> str | None:
    """Whose slide they are of; all of them are read once, in another process."""
    (record,) = slide_features.read(path, path.parents[place.count("/")])
    return record.patient if isinstance(record, Record) else None


def deidentify_tiles(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write features and coordinates anew, with the numbers that say how the slide was tiled.

    Raises:
        RecordError: a dataset is of words where numbers belong.
    """
    import h5py

    with h5py.File(path, "r") as old, h5py.File(to, "w") as new:
        _copy(old, new, _TILES, cleaning)
        for place in ("/", *_TILES):
            for name, value in old[place].attrs.items() if place in old else ():
                if name in _TILING and np.asarray(value).dtype.kind in "iufb":
                    new[place].attrs[name] = value
                else:
                    cleaning.did(f"an attribute of {place}", "X")


def _copy(old: Any, new: Any, table: dict[str, _Word | None], cleaning: Cleaning) -> None:
    """The datasets of a table, each with its type and its values; of the others that they were left out."""
    import h5py

    from .. import hdf5

    found = list[str]()
    old.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    for place in found:
        data, word = hdf5.member(old, place), table.get(place)
        if place not in table:
            cleaning.did("a dataset", "X")
        elif word is not None:
            words = [word(str(name), cleaning).encode() for name in hdf5.whole(old, place)]
            new.create_dataset(place, data=np.array(words, "S"), compression="gzip")
        elif data.dtype.kind not in "iufb" or not data.shape:
            raise RecordError("words where an HDF5 file has numbers", "numbers", "write it again")
        else:
            packed = {"chunks": data.chunks, "compression": "gzip"} if data.chunks else {}
            into = new.create_dataset(place, data.shape, data.dtype, **packed)
            for start in range(0, data.shape[0], _ROWS):
                into[start : start + _ROWS] = data[start : start + _ROWS]


def _texts(values: Any) -> list[str]:
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in np.asarray(values).ravel()]
