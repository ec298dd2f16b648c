"""Wide gene tables: one OMICS record a row, with the genes in the array and the few other columns as attributes."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..schema import Modality, Payload, Record, Rejected
from . import genes, parquet, tables
from .source import RecordError, content_id, place_id, place_of, split_uri

FEWEST_GENES = 200
_GENE = re.compile(r"^[A-Z][A-Za-z0-9.\-]{0,20}_(rnaseq|cnv|mut|meth|protein)$")
_SYMBOL = re.compile(r"^[A-Z][A-Z0-9.\-]{1,20}$")
_NAMED = re.compile(r"express|rna.?seq|copy.?number|cnv|omics|transcript|protein", re.IGNORECASE)
_KIND = {"rnaseq": "RNA-seq", "cnv": "copy number", "mut": "mutation", "meth": "methylation", "protein": "protein"}


def gene_columns(header: Sequence[str], name: str) -> list[str]:
    """The columns that are genes: spelt `GENE_assay`, or, in a file named for an assay, every upper-case symbol."""
    found = [c for c in header if _GENE.match(c)]
    if not found and _NAMED.search(name):
        found = [c for c in header if _SYMBOL.match(c)]
    return found


@contextmanager
def _table(path: Path) -> Iterator[tuple[list[str], Iterator[tuple[int, list[str]]]]]:
    """As `tables.table`, of Parquet and Feather too."""
    with path.open("rb") as file:
        packed = parquet.recognises(path, file.read(8))
    with (parquet if packed else tables).table(path) as opened:
        yield opened[0], opened[1]


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is a table with over 200 gene columns."""
    if not (tables.recognises(path, head) or parquet.recognises(path, head)):
        return False
    try:
        with _table(path) as (names, _):
            return len(gene_columns(names, path.name)) > FEWEST_GENES
    except (RecordError, OSError, ValueError, csv.Error):
        return False  # the reader of tables says what is wrong with it


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """One record a row (kind "RNA-seq", "copy number" …); a second row of a patient with the same genes is set aside."""
    source, place = content_id(path), place_of(path, root)
    with _table(path) as (names, rows):
        wanted = set(gene_columns(names, path.name))
        columns = [i for i, name in enumerate(names) if name in wanted]
        assays = sorted({g.rsplit("_", 1)[-1] for g in wanted if "_" in g})
        kind = " + ".join(_KIND.get(a, "omics") for a in assays) or "omics"
        patient = tables.patient_column(names)
        others = {i: name for i, name in enumerate(names) if name and name not in wanted and i != patient}
        site = tables.find(list(others.values()), tables.SITE_COLUMNS)
        seen: set[str] = set()
        for number, cells in rows:
            uri = f"{place}#row={number}"
            if reason := tables.wrong(cells, names, patient, uri, number):
                yield reason
                continue
            who = tables.identifier(cells[patient])
            values = place_id(who, ",".join(cells[i] for i in columns if i < len(cells)))
            if values in seen:
                yield Rejected(
                    uri, f"row {number} repeats another row's genes", "one row a sample", "nothing: it is kept once"
                )
                continue
            seen.add(values)
            about = {name: tables.typed(cells[i]) for i, name in others.items() if i < len(cells)}
            yield Record(
                id=place_id(source, f"row={number}"),
                patient=who,
                time=None,
                modality=Modality.OMICS,
                kind=kind,
                uri=uri,
                site=tables.identifier(str(about[site])) if site and about.get(site) is not None else None,
                attributes=about | {"genes": len(columns)},
            )


@lru_cache(maxsize=4)
def _matrix(path: Path, changed: float) -> tuple[tuple[str, ...], dict[int, np.ndarray]]:
    """Every row's genes as float32; kept, because rows of one file are loaded one after the other."""
    with _table(path) as (names, rows):
        wanted = set(gene_columns(names, path.name))
        columns = [i for i, name in enumerate(names) if name in wanted]
        once, matrix = tuple(genes.without_version(names[i]) for i in columns), {}
        for number, cells in rows:
            known = (tables.typed(cells[i]) if i < len(cells) else None for i in columns)
            with np.errstate(over="ignore"):  # a number that float32 cannot hold is infinite, and infinite is not known
                row = np.array([c if isinstance(c, float) else np.nan for c in known], dtype=np.float32)
            once, matrix[number] = genes.once([names[i] for i in columns], row, counts=False)
        return once, matrix


def load(record: Record) -> Payload:
    """The row's genes: array (g,) float32 with NaN where the cell is blank, names the gene columns, Ensembl's without version.

    Columns of one gene become their mean.

    Raises:
        RecordError: the row is gone.
    """
    place, fragment = split_uri(record.uri)
    path, number = Path(place), int(fragment.removeprefix("row="))
    names, matrix = _matrix(path, path.stat().st_mtime)
    if number not in matrix:
        raise RecordError(f"no row {number} in {path.name}", "the table as ingested", "ingest it again")
    return Payload(matrix[number], names=names)
