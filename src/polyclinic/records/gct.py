"""Tables with a gene a row and a sample a column: GCT 1.2 and 1.3, and the CSV and TSV tables of Xena, the GDC and GEO.

One OMICS record a sample, `#sample=3`. A CSV or TSV is one where its first column is named for genes, none names a patient, and
every other cell of its first rows is a number. Its samples' names are their patients', a TCGA barcode's first twelve characters.

Format: GenePattern's GCT; of 1.3, the rows of sample annotations above the genes are attributes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np

from ..schema import Modality, Payload, Record, Rejected, Scalar
from . import genes, tables
from .source import Lines, RecordError, check_size, content_id, open_text, part_number, place_id, place_of, split_uri

GENE_COLUMNS = frozenset(
    {
        "gene", "genes", "geneid", "genename", "genesymbol", "hugosymbol", "symbol", "ensembl", "ensemblid", "ensemblgeneid", "idref",
        "probeid", "probe", "attrib1", "entrezgeneid",
    }
)  # fmt: skip
"""Plain names of a first column that names genes."""
OPEN_COLUMNS = frozenset({"sample", "name", ""})
"""Names that say little: Xena calls its genes `sample`, Bioconductor's have no name. There every sample's name must hold a digit."""
ABOUT_GENES = (
    GENE_COLUMNS
    | OPEN_COLUMNS
    | {
        "description",
        "genetype",
        "chromosome",
        "chrom",
        "start",
        "end",
        "strand",
        "length",
        "chr",
    }
)
MOST_SAMPLES = 100_000
LOOKED_AT, FEWEST = 5, 20
"""A table of fewer genes is looked through as any other table."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A file's matrix.

    Args:
        samples: names of the columns.
        about: what the file says of each sample.
        names: of the genes, each once.
        values: (s g) float32, NaN where not measured.
    """

    samples: tuple[str, ...]
    about: tuple[dict[str, Scalar], ...]
    names: tuple[str, ...]
    values: np.ndarray


def _number(cell: str) -> float | None:
    """A cell's number, NaN where it is not known; None where it is a word."""
    value = tables.typed(cell)
    return np.nan if value is None else value if isinstance(value, float) else None


def sample_columns(names: Sequence[str]) -> list[int]:
    """The columns that are samples: all but the gene's and what is said of it."""
    return [i for i, name in enumerate(names) if i and tables.plain(name) not in ABOUT_GENES]


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is GCT, or a table with genes in its rows."""
    name = path.name.lower()
    if name.endswith((".gct", ".gct.gz")) or head.startswith((b"#1.2\n", b"#1.3\n", b"#1.2\r", b"#1.3\r")):
        return True
    if not tables.recognises(path, head):
        return False
    try:
        with tables.table(path) as (names, rows):
            samples, called = sample_columns(names), tables.plain(names[0])
            told = called in GENE_COLUMNS or (
                called in OPEN_COLUMNS and all(re.search(r"\d", names[i]) for i in samples)
            )
            if not told or tables.find(names, tables.PATIENT_COLUMNS):
                return False
            first = [cells for _, cells in islice(rows, FEWEST)]
            whole = all(len(cells) == len(names) for cells in first)
            numbers = whole and all(_number(cells[i]) is not None for cells in first[:LOOKED_AT] for i in samples)
            words = any(_number(cells[0]) is None for cells in first)
            return bool(samples) and len(first) == FEWEST and numbers and words
    except (RecordError, OSError, ValueError, csv.Error):
        return False  # the reader of tables says what is wrong with it


def gct_lines(path: Path) -> Iterator[list[str]]:
    """The lines of a GCT: first [genes, samples, columns about genes, rows about samples], then the header and what follows.

    Raises:
        RecordError: it is none.
    """
    with open_text(path) as stream:
        lines = Lines(stream)
        version, sizes = next(lines, "").strip(), next(lines, "").split()
        wanted = {"#1.2": 2, "#1.3": 4}.get(version, 0)
        if not wanted or len(sizes) < wanted or not all(s.isdecimal() and len(s) < 10 for s in sizes[:wanted]):
            raise RecordError(
                "a GCT without its sizes", "#1.2 or #1.3, then numbers of rows and columns", "export it again"
            )
        # In 1.2 one column, the description, stands beside the name.
        yield sizes if wanted == 4 else [*sizes[:2], "1", "0"]
        for line in lines:
            lines.fed = 0
            yield line.rstrip("\r\n").split("\t")


def _read_gct(path: Path) -> Expression:
    lines = gct_lines(path)
    genes_n, samples_n, beside, above = map(int, next(lines))
    check_size((max(genes_n, 1), max(samples_n, 1)), 4)
    header = next(lines, [])
    first = 1 + beside
    samples = tuple(name.strip() for name in header[first:])
    if len(samples) != samples_n or len(set(samples)) < samples_n:
        raise RecordError(f"a GCT of {len(samples)} samples", f"{samples_n}, each named once", "export it again")
    about: tuple[dict[str, Scalar], ...] = tuple({} for _ in samples)
    for line in islice(lines, above):
        for one, cell in zip(about, line[first:], strict=False):
            one[line[0]] = tables.typed(cell)
    rows = ((n, cells) for n, cells in enumerate(lines, 4 + above) if cells != [""])
    expression = _matrix(samples, about, rows, list(range(first, first + samples_n)), first + samples_n)
    if expression[1] != genes_n:
        raise RecordError(
            f"a GCT of {expression[1]} genes where {genes_n} are promised", "all of them", "copy it again"
        )
    return expression[0]


def _matrix(
    samples: tuple[str, ...],
    about: tuple[dict[str, Scalar], ...],
    rows: Iterator[tuple[int, list[str]]],
    columns: list[int],
    width: int,
) -> tuple[Expression, int]:
    """The samples' genes, and how many rows there were.

    Raises:
        RecordError: a row of another width, or a word where a number should be.
    """
    if len(columns) > MOST_SAMPLES:
        raise RecordError(f"a table of {len(columns)} samples", f"at most {MOST_SAMPLES}", "split it by samples")
    names: list[str] = []
    values: list[np.ndarray] = []
    for number, cells in rows:
        if len(cells) != width:
            raise RecordError(f"row {number} of {len(cells)} cells", f"{width}, as the header has", "export it again")
        numbers = [_number(cells[i]) for i in columns]
        if any(n is None for n in numbers):
            raise RecordError(f"row {number} with a word among its numbers", "a number a sample", "export it again")
        names.append(cells[0])
        with np.errstate(over="ignore"):
            row = np.array(numbers, dtype=np.float32)
        values.append(np.where(np.isfinite(row), row, np.nan))
        if len(values) % 1000 == 1:
            check_size((len(values), max(len(columns), 1)), 4)
    matrix = np.array(values, dtype=np.float32).reshape(-1, len(columns)).T
    known = matrix[np.isfinite(matrix)]
    counts = bool(known.size) and bool((known >= 0).all()) and bool((known == np.round(known)).all())
    once, merged = genes.once(names, matrix, counts)
    return Expression(samples, about, once, merged), len(names)


@lru_cache(maxsize=1)
def _expression(path: Path, changed: int) -> Expression:
    """What a file holds; kept, because its samples are loaded one after the other."""
    if not tables.recognises(path, b""):
        return _read_gct(path)
    with tables.table(path) as (names, rows):
        columns = sample_columns(names)
        samples = tuple(names[i] for i in columns)
        return _matrix(samples, tuple({} for _ in samples), rows, columns, len(names))[0]


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """A record a sample; the genes in the array, what the file says of the sample as attributes."""
    found, source, place = _expression(path, path.stat().st_mtime_ns), content_id(path), place_of(path, root)
    for number, (name, about) in enumerate(zip(found.samples, found.about, strict=True)):
        patient = tables.find(list(about), tables.PATIENT_COLUMNS)
        who = str(about[patient]) if patient and about[patient] is not None else name
        if not who.strip():
            yield Rejected(f"{place}#sample={number}", f"column {number + 1} without a name", "the sample's", "add it")
            continue
        yield Record(
            id=place_id(source, f"sample={number}"),
            patient=genes.patient_of_sample(who) or tables.identifier(who),
            time=None,
            modality=Modality.OMICS,
            kind="omics",
            uri=f"{place}#sample={number}",
            attributes={**about, "sample": name, "genes": len(found.names)},
        )


def load(record: Record) -> Payload:
    """array (g,) float32 with NaN where not measured; genes of one name are summed where the table counts, else their mean.

    Raises:
        RecordError: the sample is gone.
    """
    path, number = Path(split_uri(record.uri)[0]), part_number(record.uri, "sample") or 0
    found = _expression(path, path.stat().st_mtime_ns)
    if number >= len(found.samples):
        raise RecordError(f"no sample {number} in {path.name}", "the file as ingested", "ingest it again")
    return Payload(found.values[number].copy(), names=found.names)
