"""10x matrix-market folders: `matrix.mtx` beside `barcodes.tsv` and `features.tsv` (or `genes.tsv`), plain or gzipped.

One OMICS record a folder: the counts of all its cells or spots, summed. Formats: NIST Matrix Market, coordinate form; Cell Ranger's
feature-barcode matrices, whose rows are features and columns barcodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from ..schema import Modality, Payload, Record, Rejected
from . import genes
from .naming import patient_of
from .source import Lines, RecordError, content_id, open_text, place_of

_MATRIX = re.compile(r"(.*)matrix\.mtx(\.gz)?$", re.IGNORECASE)
_NAMES = re.compile(r"(.*)(barcodes|features|genes)\.tsv(\.gz)?$", re.IGNORECASE)
_PLAIN = {"filtered_feature_bc_matrix", "filtered_gene_bc_matrices", "outs", "matrix", "mtx"}
LINES_AT_ONCE, MOST_FEATURES = 100_000, 1_000_000


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is named matrix.mtx, or is a list of names beside one; a prefix (GEO's `GSM123_`) may stand before."""
    if _MATRIX.match(path.name):
        return True
    found = _NAMES.match(path.name)
    return bool(found) and _beside(path, found[1], "matrix.mtx") is not None


def _beside(path: Path, prefix: str, *names: str) -> Path | None:
    return next(
        (f for n in names for f in (path.with_name(prefix + n), path.with_name(f"{prefix}{n}.gz")) if f.is_file()), None
    )


def _lines(path: Path) -> Iterator[str]:
    with open_text(path) as stream:
        lines = Lines(stream)
        for line in lines:
            lines.fed = 0
            yield line.rstrip("\r\n")


def _features(path: Path) -> tuple[list[str], np.ndarray]:
    """Names of the features and which are genes: id, name, type (genes.tsv: without a type)."""
    rows = [line.split("\t") for line in islice(_lines(path), MOST_FEATURES + 1) if line]
    if len(rows) > MOST_FEATURES:
        raise RecordError(f"over {MOST_FEATURES} features", "genes", "check where it comes from")
    names = [row[1] if len(row) > 1 else row[0] for row in rows]
    is_gene = np.array([len(row) < 3 or row[2] == "Gene Expression" for row in rows], dtype=bool)
    return names, is_gene if is_gene.any() else np.ones(len(rows), bool)


def _promised(lines: Iterator[str], features: int, barcodes: int) -> int:
    """How many values the matrix's head promises.

    Raises:
        RecordError: it is no such matrix, or of another size than the lists of names.
    """
    head = next(lines, "").lower().split()
    if head[:3] != ["%%matrixmarket", "matrix", "coordinate"] or head[3:] not in (
        ["integer", "general"],
        ["real", "general"],
    ):
        raise RecordError(
            "a file that is no sparse matrix of numbers",
            "%%MatrixMarket matrix coordinate integer general",
            "write it again",
        )
    size = next((line.split() for line in lines if line and not line.startswith("%")), [])
    if size[:2] != [str(features), str(barcodes)] or len(size) != 3 or not size[2].isdecimal():
        raise RecordError(
            f"a matrix of {' × '.join(size[:2]) or 'no size'}", f"{features} features × {barcodes} barcodes, as the lists have",
            "copy all three again",
        )  # fmt: skip
    return int(size[2])


def _sum(path: Path) -> tuple[tuple[str, ...], np.ndarray, int]:
    """The genes, each once, their sums over all barcodes, and how many barcodes there are.

    Raises:
        RecordError: the lists of names are not there or of other lengths, or the matrix is none or was cut short.
    """
    match = _MATRIX.match(path.name)
    prefix = match[1] if match else ""
    features, barcodes = _beside(path, prefix, "features.tsv", "genes.tsv"), _beside(path, prefix, "barcodes.tsv")
    if features is None or barcodes is None:
        raise RecordError(
            "a matrix without the names of its rows and columns", "features.tsv (or genes.tsv) and barcodes.tsv beside it", "add them"
        )  # fmt: skip
    names, is_gene = _features(features)
    cells = sum(1 for line in _lines(barcodes) if line)
    lines = _lines(path)
    promised = _promised(lines, len(names), cells)
    total, read = np.zeros(len(names)), 0
    while block := list(islice(lines, LINES_AT_ONCE)):
        try:
            values = np.array(" ".join(block).split(), dtype=np.float64).reshape(-1, 3)
        except ValueError as error:
            raise RecordError(
                "a matrix with a line that is no row, column and value", "three numbers", "copy it again"
            ) from error
        rows = values[:, 0].astype(np.int64) - 1
        if len(rows) and (rows.min() < 0 or rows.max() >= len(names)):
            raise RecordError(
                "a matrix with a row that has no name", f"rows up to {len(names)}", "copy all three again"
            )
        np.add.at(total, rows, values[:, 2])
        read += len(values)
    if read != promised:
        raise RecordError(f"a matrix of {read} values where {promised} are promised", "all of them", "copy it again")
    kept, sums = genes.once([n for n, g in zip(names, is_gene, strict=True) if g], total[is_gene], counts=True)
    return kept, sums, cells


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record for `matrix.mtx`, nothing for the lists beside it; a raw matrix whose filtered one is there is set aside."""
    if not _MATRIX.match(path.name):
        return
    place = place_of(path, root)
    folder = path.parent
    if "raw" in folder.name and any(folder.with_name(folder.name.replace("raw", "filtered")).glob("*matrix.mtx*")):
        raise RecordError(
            "a raw matrix whose filtered one lies beside it", "one of them", "nothing: the filtered one is read"
        )
    names, _, cells = _sum(path)
    inside = [
        f for f in place.split("/")[:-1] if f.lower() not in _PLAIN and not re.match(r"raw_|filtered_", f.lower())
    ]
    stem = _MATRIX.sub(r"\1", path.name).strip("_-. ")
    yield Record(
        id=content_id(path),
        patient=patient_of(place, stem) or stem or (inside[-1] if inside else path.name.split(".")[0]),
        time=None,
        modality=Modality.OMICS,
        kind="single-cell RNA-seq",
        uri=place,
        attributes={"genes": len(names), "cells": cells, "counts": True, "anonymous": True},
    )


def load(record: Record) -> Payload:
    """array (g,) float32: the counts summed over the cells, names the genes, each once."""
    names, sums, _ = _sum(Path(record.uri))
    return Payload(sums.astype(np.float32), names=names)
