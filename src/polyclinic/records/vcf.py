"""Variant calls (VCF 4.x, plain, gzipped or bgzipped): one OMICS record a sample, its variants counted.

Where a caller's INFO names genes (SnpEff's `ANN`, VEP's `CSQ`), the array counts a gene's protein-changing variants (impact HIGH or
MODERATE) that the sample carries, `TP53_mut`; else the variants of each chromosome, `chr7_variants`. Lines that a filter failed are
left out: FILTER is PASS or not given. A sample's line with no genotype is not called, which is not the same as no variant.

Source: VCF 4.3; SnpEff's ANN 1.0; Ensembl VEP's CSQ, whose parts the header names.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from ..schema import Payload, Record, Rejected
from . import variants
from .genes import without_version
from .source import Lines, RecordError, open_text
from .variants import MOST_SAMPLES, Mutations, Sample, records_of

_ENDING = re.compile(r"\.vcf(\.b?gz)?$", re.IGNORECASE)
_FIRST = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO"]
_LENGTH_OF_1 = {"249250621": "GRCh37", "248956422": "GRCh38", "247249719": "NCBI36", "248387328": "T2T-CHM13"}
"""Bases of chromosome 1 in each assembly (Genome Reference Consortium; T2T Consortium)."""
_BUILDS = {"GRCh37": r"hg19|b37|hs37|grch37", "GRCh38": r"hg38|hs38|grch38", "NCBI36": r"hg18|ncbi36"}
_TRANSITIONS = {("A", "G"), ("G", "A"), ("C", "T"), ("T", "C")}
_CHANGING = {"HIGH", "MODERATE"}
_ANN = ["Allele", "Annotation", "IMPACT", "SYMBOL"]


def recognises(path: Path, head: bytes) -> bool:
    """Whether it begins as a VCF does, or is named as a packed one."""
    return head.startswith(b"##fileformat=VCF") or bool(_ENDING.search(path.name))


class _Header:
    """What the lines before the calls say: samples, genome build, and how the genes are named."""

    def __init__(self, lines: Lines) -> None:
        self.build, self.genes_in, self.parts = "", "", _ANN
        first = next(lines, "")
        if not first.startswith("##fileformat=VCFv4"):
            raise RecordError("a file that is no VCF 4", "##fileformat=VCFv4.x in front", "convert it with bcftools")
        self.length = 1
        for line in lines:
            self.length, lines.fed = self.length + 1, 0
            if not line.startswith("##"):
                break
            self._meta(line)
        else:
            line = ""
        columns = line.rstrip("\r\n").split("\t")
        if columns[:8] != _FIRST:
            raise RecordError("a VCF without its header line", "\t".join(_FIRST), "export it again")
        self.samples: list[str] = columns[9:]
        if len(set(self.samples)) < len(self.samples):
            raise RecordError("two samples of one name", "every name once", "rename one of them")

    def _meta(self, line: str) -> None:
        if re.match(r"##contig=<.*\bID=(chr)?1,", line) and (length := re.search(r"length=(\d+)", line)):
            self.build = _LENGTH_OF_1.get(length[1], self.build)
        if line.startswith(("##reference", "##assembly", "##contig")) and not self.build:
            self.build = next((b for b, spelt in _BUILDS.items() if re.search(spelt, line, re.IGNORECASE)), "")
        if line.startswith("##INFO=<ID=ANN,"):
            self.genes_in, self.parts = "ANN", _ANN
        if line.startswith("##INFO=<ID=CSQ,") and (parts := re.search(r"Format: ([^\">]+)", line)):
            self.genes_in, self.parts = "CSQ", parts[1].split("|")

    def genes(self, info: str, alternatives: list[str]) -> list[set[str]]:
        """Of each alternative allele, the genes whose protein it changes."""
        found: list[set[str]] = [set() for _ in alternatives]
        mark = self.genes_in + "="
        for annotation in next((i[len(mark) :] for i in info.split(";") if i.startswith(mark)), "").split(","):
            said = dict(zip(self.parts, annotation.split("|"), strict=False))
            name = without_version(said.get("SYMBOL") or said.get("Gene") or "")
            if not name or said.get("IMPACT") not in _CHANGING:
                continue
            for number, alternative in enumerate(alternatives):
                # VEP leaves out the first base of an insertion or deletion, which all alleles share.
                if len(alternatives) == 1 or said.get("Allele") in (alternative, alternative[1:] or "-"):
                    found[number].add(name)
        return found


def _kind(reference: str, alternative: str) -> str:
    """snv, indel or other: several bases, symbolic (`<DEL>`), a break end, a missing allele (`*`)."""
    if not re.fullmatch(r"[ACGTN]+", alternative) or not re.fullmatch(r"[ACGTN]+", reference):
        return "other"
    return "indel" if len(reference) != len(alternative) else "snv" if len(reference) == 1 else "other"


def _line(cells: list[str], header: _Header, samples: list[Sample]) -> None:
    """Count one line.

    Raises:
        RecordError: it is none.
    """
    chromosome, position, _, reference, alternative, _, _, info = cells[:8]
    alternatives = alternative.upper().split(",")
    if not position.isdecimal() or not reference or "." in alternatives:
        raise RecordError("a line without a position and two alleles", "POS, REF and ALT", "export it again")
    kinds = [_kind(reference.upper(), a) for a in alternatives]
    changes = header.genes(info, alternatives) if header.genes_in else []
    place = f"chr{re.sub('^chr', '', chromosome, flags=re.IGNORECASE)}_variants"
    for sample, cell in zip(samples, cells[9:] if header.samples else ["1"], strict=True):
        alleles = re.split(r"[/|]", cell.split(":", 1)[0])
        if any(not a.isdecimal() or int(a) > len(alternatives) for a in alleles):
            sample.about["uncalled"] += 1
            continue
        carried = {int(a) - 1 for a in alleles} - {-1}
        if not carried:
            continue
        for allele in carried:
            sample.about["variants"] += 1
            sample.about[kinds[allele]] += 1
            if kinds[allele] == "snv":
                change = (reference.upper(), alternatives[allele])
                sample.about["transitions" if change in _TRANSITIONS else "transversions"] += 1
            if not header.genes_in:
                sample.counts[place] += 1
            for gene in changes[allele] if changes else ():
                sample.counts[sys.intern(f"{gene}_mut")] += 1
        if header.samples:
            sample.about["hom" if len(set(alleles)) == 1 else "het"] += 1


@lru_cache(maxsize=2)
def _mutations(path: Path, changed: int) -> Mutations:
    """What a file holds; kept, because its samples are loaded one after the other."""
    with open_text(path) as stream:
        lines = Lines(stream)
        header = _Header(lines)
        if len(header.samples) > MOST_SAMPLES:
            raise RecordError(f"{len(header.samples)} samples", f"at most {MOST_SAMPLES}", "split the file by samples")
        samples = [Sample(name) for name in header.samples] or [Sample(None)]
        found = Mutations(
            samples, {"build": header.build or None, "counted": "genes" if header.genes_in else "chromosomes"}
        )
        failed, width = 0, 9 + len(header.samples) if header.samples else 8
        for row, line in enumerate(lines, header.length + 1):
            lines.fed = 0
            found.check(row)
            cells = line.rstrip("\r\n").split("\t")
            if cells == [""]:
                continue
            try:
                if len(cells) < width or (header.samples and len(cells) != width):
                    raise RecordError(
                        f"a line of {len(cells)} columns", f"{width}, as the header has", "export it again"
                    )
                if cells[6] not in ("PASS", ".", ""):
                    failed += 1
                elif cells[4] != ".":  # a line that says that there is no variant
                    _line(cells, header, samples)
            except RecordError as reason:
                found.leave_out(row, reason)
    found.about["failed_filters"] = failed
    for sample in samples:
        for name in ("variants", "snv", "indel", "other", "uncalled", *(("het", "hom") if header.samples else ())):
            sample.about[name] += 0
    return found


def read(path: Path, root: Path) -> Iterator[Record | Rejected]:
    """A record a sample: variants, snv, indel, other, transitions and transversions, het and hom genotypes, uncalled lines."""
    found = _mutations(path, path.stat().st_mtime_ns)
    yield from records_of(found, path, root, _ENDING.sub("", path.name))


def load(record: Record) -> Payload:
    """array (g,) float32 counts, names `TP53_mut` or `chr7_variants`; a name that another sample of the file has is 0 here.

    Raises:
        RecordError: the sample is gone.
    """
    return variants.load(record, _mutations)
