"""Wide gene tables: one OMICS record a row, with the genes in the array and the few other columns as attributes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..schema import Modality, Payload, Record, Rejected
from . import tables
from .source import RecordError, content_id, open_text, place_id, split_uri

FEWEST_GENES = 200
_GENE = re.compile(r"^[A-Z][A-Za-z0-9.\-]{0,20}_(rnaseq|cnv|mut|meth|protein)$")
_NAMED = re.compile(r"express|rna.?seq|copy.?number|cnv|omics|transcript|protein", re.IGNORECASE)
_KIND = {"rnaseq": "RNA-seq", "cnv": "copy number", "mut": "mutation", "meth": "methylation", "protein": "protein"}


def gene_columns(header: Sequence[str], name: str) -> list[str]:
    """The columns that are genes: spelt `GENE_assay`, or, in a file named for an assay, every upper-case symbol."""
    genes = [c for c in header if _GENE.match(c)]
    if not genes and _NAMED.search(name):
        genes = [c for c in header if re.match(r"^[A-Z][A-Z0-9.\-]{1,20}$", c)]
    return genes


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is a table with over 200 gene columns."""
    if not tables.recognises(path, head):
        return False
    try:
        return len(gene_columns(_header(path), path.name)) > FEWEST_GENES
    except (RecordError, OSError, ValueError):
        return False


def _header(path: Path) -> list[str]:
    with open_text(path) as stream:
        line = stream.readline(1 << 22)
    return [c.strip().strip('"') for c in line.split("\t" if ".tsv" in path.name.lower() else ",")]


def read(path: Path) -> Iterator[Record | Rejected]:
    """One record a row (kind "RNA-seq", "copy number" …); a second row of a patient with the same genes is set aside."""
    source = content_id(path)
    header = _header(path)
    genes = gene_columns(header, path.name)
    assays = sorted({g.rsplit("_", 1)[-1] for g in genes if "_" in g})
    kind = " + ".join(_KIND.get(a, "omics") for a in assays) or "omics"
    patient_column = tables.find(header, tables.PATIENT_COLUMNS)
    if patient_column is None:
        raise RecordError("a gene table without a patient column", "one such as case_id", "rename that column")
    known = set(genes)
    others, seen = [c for c in header if c and c not in known], set()
    for number, row in tables.rows(path):
        patient, uri = tables.patient_name(row.get(patient_column, "")), f"{path}#row={number}"
        if not patient:
            yield Rejected(uri, f"row {number} without a patient", f"a value in {patient_column!r}", "fill it in")
            continue
        values = place_id(patient, ",".join(row.get(g, "") for g in genes))
        if values in seen:
            yield Rejected(
                uri, f"row {number} repeats another row's genes", "one row a sample", "nothing: it is kept once"
            )
            continue
        seen.add(values)
        yield Record(
            id=place_id(source, f"row={number}"),
            patient=patient,
            time=None,
            modality=Modality.OMICS,
            kind=kind,
            uri=uri,
            site=str(row["site"]) if row.get("site") else None,
            attributes={c: tables.typed(row.get(c, "")) for c in others if c != patient_column} | {"genes": len(genes)},
        )


@lru_cache(maxsize=4)
def _matrix(path: Path, changed: float) -> tuple[tuple[str, ...], dict[int, np.ndarray]]:
    """Every row's genes as float32; kept, because rows of one file are loaded one after the other."""
    genes = tuple(gene_columns(_header(path), path.name))
    matrix = {}
    for number, row in tables.rows(path):
        cells = [tables.typed(row.get(g, "")) for g in genes]
        matrix[number] = np.array([c if isinstance(c, float) else np.nan for c in cells], dtype=np.float32)
    return genes, matrix


def load(record: Record) -> Payload:
    """The row's genes: array (g,) float32 with NaN where the cell is blank, names the gene columns.

    Raises:
        RecordError: the row is gone.
    """
    place, fragment = split_uri(record.uri)
    path, number = Path(place), int(fragment.removeprefix("row="))
    genes, matrix = _matrix(path, path.stat().st_mtime)
    if number not in matrix:
        raise RecordError(f"no row {number} in {path.name}", "the table as ingested", "ingest it again")
    return Payload(matrix[number], names=genes)
