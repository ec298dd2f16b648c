"""Mutation annotation files: barcodes and UUIDs get new names, annotations of genes and counts of reads stay; the rest goes.

Source: TCGA's MAF 2.4, the GDC's MAF format 1.0.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..source import Lines, RecordError, open_text
from . import samples
from .cleaning import Cleaning
from .known import Known

_BARCODE = re.compile(
    r"(Tumor|Normal|Matched_Norm)\w*_Barcode|.*_(?:Sample|Aliquot)_?Barcode|case_barcode|sample_id|case_id",
    re.IGNORECASE,
)
_UUID = re.compile(r".*uuid|case_id", re.IGNORECASE)
_KEPT = re.compile(
    r"Hugo_Symbol|Entrez_Gene_Id|NCBI_Build|Chromosome|Start_Position|End_Position|Strand|Variant_Classification|Variant_Type|Reference_Allele"
    r"|Tumor_Seq_Allele[12]|Match_Norm_Seq_Allele[12]|dbSNP_RS|dbSNP_Val_Status|Mutation_Status|Validation_Status|Verification_Status|FILTER"
    r"|HGVS\w*|[tn]_(?:depth|ref_count|alt_count|vaf)|all_effects|Allele|Gene|Feature|Feature_type|One_Consequence|Consequence|cDNA_position"
    r"|CDS_position|Protein_position|Amino_acids|Codons|Existing_variation|DISTANCE|TRANSCRIPT_STRAND|SYMBOL|SYMBOL_SOURCE|HGNC_ID|BIOTYPE"
    r"|CANONICAL|CCDS|ENSP|SWISSPROT|TREMBL|UNIPARC|UNIPROT\w*|RefSeq|SIFT|PolyPhen|EXON|INTRON|DOMAINS|(?:gnomAD|ExAC|1000G|ESP)\w*|GMAF|\w+_MAF"
    r"|AF|CLIN_SIG|SOMATIC|IMPACT|PICK|VARIANT_CLASS|TSL|hotspot|callers|GDC_FILTER|COSMIC|CONTEXT|Transcript_ID|Exon_Number|i_\w*score",
    re.IGNORECASE,
)


@contextmanager
def _table(path: Path) -> Iterator[tuple[list[str], list[str], Iterator[list[str]]]]:
    """Comments, the columns' names and the rows."""
    with open_text(path) as stream:
        lines, above = Lines(stream), list[str]()
        line = ""
        for line in lines:
            if not line.startswith("#") and line.strip():
                break
            above.append(line)
        names = [name.strip() for name in line.rstrip("\r\n").split("\t")]
        if "Tumor_Sample_Barcode" not in names:
            raise RecordError("a MAF without the column Tumor_Sample_Barcode", "its columns", "export it again")

        def rows() -> Iterator[list[str]]:
            for line in lines:
                lines.fed = 0
                if line.strip():
                    yield [cell.strip() for cell in line.rstrip("\r\n").split("\t")]

        yield above, names, rows()


def survey(path: Path, place: str, known: Known) -> str:
    """Note whose samples there are."""
    with _table(path) as (_, names, rows):
        mine = [i for i, name in enumerate(names) if _BARCODE.fullmatch(name)]
        for cells in rows:
            samples.note((cells[i] for i in mine if i < len(cells) and cells[i] not in ("", ".", "NORMAL")), known)
    return ""


def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the mutations anew; a row of another width than the header's is left out.

    Raises:
        RecordError: a column that is needed is not there.
    """
    with _table(path) as (above, names, rows), to.open("wb") as raw:
        kept = [i for i, name in enumerate(names) if any(sort.fullmatch(name) for sort in (_BARCODE, _UUID, _KEPT))]
        for number, _ in enumerate(set(range(len(names))) - set(kept), 1):
            cleaning.did(f"column {number} of those that are in no list", "X")
        file = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) if to.name.lower().endswith("gz") else raw
        put = lambda cells: file.write(("\t".join(cells) + "\n").encode())
        for line in above:
            if re.fullmatch(r"#version (?:gdc-)?\d[\d.]*", line.strip()):
                put([line.strip()])
        put([names[i] for i in kept])
        wrong, seen = 0, dict[str, str]()
        for cells in rows:
            if len(cells) != len(names):
                wrong += 1
                continue
            put([_cell(names[i], cells[i], cleaning, seen) for i in kept])
        if file is not raw:
            file.close()
    if wrong:
        cleaning.did(f"{wrong} rows", "X: of another width")


def _cell(name: str, cell: str, cleaning: Cleaning, seen: dict[str, str]) -> str:
    if cell in ("", ".", "-", "NA", "NORMAL"):
        return cell
    if _UUID.fullmatch(name):
        return cleaning.key.pseudonym(cell)
    if _BARCODE.fullmatch(name):
        return seen.setdefault(cell, samples.renamed(cell, cleaning))
    if cell.casefold() in cleaning.known.ids or re.search(r"TCGA-\w\w-\w{4}|@|\d{3}-\d{2}-\d{4}", cell):
        return ""
    words = set(re.findall(r"[^\W\d_]{3,}", cell.casefold()))
    return "" if words & cleaning.known.parts and " " in cell else cell
