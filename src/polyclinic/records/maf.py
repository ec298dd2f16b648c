"""Mutation annotation files (TCGA's MAF 2.4 and the GDC's): one OMICS record a tumour sample, its mutations counted by gene.

The array counts a gene's non-silent mutations, `TP53_mut`; the attributes count every `Variant_Classification` (the mutation burden,
per class: the captured bases, by which a burden is divided, are not in the file). Rows that a filter failed are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from ..schema import Payload, Record, Rejected
from . import variants
from .genes import without_version
from .source import Lines, RecordError, open_text
from .variants import Mutations, Sample, records_of

NON_SILENT = frozenset(
    {
        "Missense_Mutation", "Nonsense_Mutation", "Nonstop_Mutation", "Frame_Shift_Del", "Frame_Shift_Ins", "In_Frame_Del",
        "In_Frame_Ins", "Splice_Site", "Translation_Start_Site",
    }
)  # fmt: skip
"""Of the GDC's MAF format, the classes that change a protein."""
_ENDING = re.compile(r"\.maf(\.(txt|gz|txt\.gz))?$", re.IGNORECASE)
_GENE, _SAMPLE, _CLASS, _FILTER = "Hugo_Symbol", "Tumor_Sample_Barcode", "Variant_Classification", "FILTER"


def recognises(path: Path, head: bytes) -> bool:
    """Whether the header names a gene and a tumour's barcode, or the name says MAF."""
    return (_GENE.encode() in head and _SAMPLE.encode() in head) or bool(_ENDING.search(path.name))


def _header(lines: Lines) -> tuple[list[str], int]:
    """The column names, and in which line they stand, below comments.

    Raises:
        RecordError: a column that is needed is not there.
    """
    line, above = "", 0
    for above, line in enumerate(lines, 1):  # noqa: B007 (the last one is the header)
        if not line.startswith("#") and line.strip():
            break
    names = line.rstrip("\r\n").split("\t")
    missing = [n for n in (_GENE, _SAMPLE, _CLASS) if n not in names]
    if missing:
        raise RecordError(
            f"a MAF without the column {missing[0]}", f"{_GENE}, {_SAMPLE} and {_CLASS}", "export it again"
        )
    return names, above


@lru_cache(maxsize=2)
def _mutations(path: Path, changed: int) -> Mutations:
    """What a file holds; kept, because its samples are loaded one after the other."""
    with open_text(path) as stream:
        lines = Lines(stream)
        names, above = _header(lines)
        gene, sample, kind = (names.index(n) for n in (_GENE, _SAMPLE, _CLASS))
        passed = names.index(_FILTER) if _FILTER in names else None
        samples: dict[str, Sample] = {}
        found, failed = Mutations([]), Counter[str]()
        for row, line in enumerate(lines, above + 1):
            lines.fed = 0
            if row % 1000 == 1:
                found.samples = list(samples.values())
                found.check(row)
            cells = [cell.strip() for cell in line.rstrip("\r\n").split("\t")]
            if cells == [""]:
                continue
            if len(cells) != len(names):
                found.leave_out(row, RecordError(f"a line of {len(cells)} columns", f"{len(names)}", "export it again"))
            elif not cells[sample] or not cells[gene]:
                found.leave_out(
                    row, RecordError("a mutation of no sample or no gene", f"{_SAMPLE} and {_GENE}", "fill it in")
                )
            elif passed is not None and cells[passed] not in ("PASS", ".", ""):
                failed[cells[sample]] += 1
                samples.setdefault(
                    cells[sample], Sample(cells[sample])
                )  # it was sequenced, and may have none that count
            else:
                mine = samples.setdefault(cells[sample], Sample(cells[sample]))
                mine.about["variants"] += 1
                mine.about[cells[kind] or "unclassified"] += 1
                if cells[kind] in NON_SILENT:
                    mine.about["non_silent"] += 1
                    mine.counts[f"{without_version(cells[gene])}_mut"] += 1
    for name, mine in samples.items():
        mine.about.update({"variants": 0, "non_silent": 0, "failed_filters": failed[name]})
    found.samples = list(samples.values())
    if not samples and not found.wrong:
        raise RecordError("a MAF without a mutation", "at least one row", "check what was exported")
    return found


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """A record a tumour sample; its patient is a TCGA barcode's first twelve characters, or else the sample's name."""
    found = _mutations(path, path.stat().st_mtime_ns)
    yield from records_of(found, path, root, _ENDING.sub("", path.name))


def load(record: Record) -> Payload:
    """array (g,) float32 counts of non-silent mutations, names `TP53_mut`; a gene that only others have mutated is 0.

    Raises:
        RecordError: the sample is gone.
    """
    return variants.load(record, _mutations)
