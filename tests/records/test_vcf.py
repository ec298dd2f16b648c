from __future__ import annotations

import gzip
import random
from collections import Counter
from pathlib import Path

import pytest

from polyclinic import records
from polyclinic.records import variants
from polyclinic.schema import Modality, Record, Rejected
from reading import parted

HEADER = """##fileformat=VCFv4.2
##contig=<ID=chr1,length=248956422>
##INFO=<ID=ANN,Number=.,Type=String,Description="Functional annotations: 'Allele | Annotation | Annotation_Impact | Gene_Name'">
"""
COLUMNS = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]


def write(path: Path, rows: list[str], samples: list[str], header: str = HEADER) -> Path:
    """Rows are spelt with spaces."""
    text = header + "\t".join([*COLUMNS, *samples]) + "\n" + "".join("\t".join(r.split()) + "\n" for r in rows)
    if path.suffix == ".bgz":  # blocks, each a gzip member of its own (SAM specification, 4.1)
        path.write_bytes(b"".join(gzip.compress(text.encode()[i : i + 100]) for i in range(0, len(text), 100)))
    else:
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def counts(record: Record, root: Path) -> dict[str, float]:
    payload = records.load(record, root)
    return dict(zip(payload.names, payload.array.tolist(), strict=True))


ROWS = [
    "chr1 100 . A G . PASS ANN=G|missense_variant|MODERATE|TP53|,G|intron|MODIFIER|KRAS| GT 0/1 1|1",
    "chr1 200 . A T . . ANN=T|synonymous|LOW|TP53| GT:DP 0/0:9 0/1:9",
    "chr2 300 . AC A . PASS ANN=A|frameshift|HIGH|ENSG00000141510.16| GT 1/1 ./.",
    "chr2 400 . A G,ATT . PASS ANN=G|stop|HIGH|EGFR|,ATT|x|HIGH|ALK| GT 1/2 0/2",
    "chr3 500 . A G . q10 ANN=G|stop|HIGH|TP53| GT 1/1 1/1",
    "chr3 600 . A <DEL> . PASS . GT 0/1 0/0",
    "chr3 700 . A . . PASS . GT 0/0 0/0",
]


@pytest.mark.parametrize("name", ["a.vcf", "a.vcf.gz", "a.vcf.bgz"])
def test_a_sample_is_a_record_of_its_genes_counts(tmp_path: Path, name: str) -> None:
    (one, two), reasons = parted(write(tmp_path / name, ROWS, ["P1", "TCGA-02-0001-01C"]))
    assert reasons == []
    assert (one.patient, two.patient) == ("P1", "TCGA-02-0001")
    assert (one.kind, one.modality, one.uri) == ("mutation", Modality.OMICS, f"{name}#sample=0")
    assert counts(one, tmp_path) == {"ALK_mut": 1, "EGFR_mut": 1, "ENSG00000141510_mut": 1, "TP53_mut": 1}
    assert counts(two, tmp_path) == {"ALK_mut": 1, "EGFR_mut": 0, "ENSG00000141510_mut": 0, "TP53_mut": 1}
    told = {k: v for k, v in one.attributes.items() if k != "sample"}
    assert told == {
        "build": "GRCh38", "counted": "genes", "failed_filters": 1, "variants": 5, "snv": 2, "indel": 2, "other": 1,
        "transitions": 2, "uncalled": 0, "het": 3, "hom": 1,
    }  # fmt: skip
    assert (two.attributes["uncalled"], two.attributes["transversions"], two.attributes["hom"]) == (1, 1, 1)


def test_vep_names_its_parts_in_the_header_and_leaves_out_the_shared_base(tmp_path: Path) -> None:
    csq = '##INFO=<ID=CSQ,Number=.,Type=String,Description="VEP. Format: Allele|Consequence|IMPACT|SYMBOL">\n'
    header = f"##fileformat=VCFv4.3\n##reference=file:///data/hs37d5.fa\n{csq}"
    rows = [
        "1 9 . CA C,CAT . PASS DP=3;CSQ=-|frameshift|HIGH|BRCA1,AT|frameshift|HIGH|BRCA2 GT 0/1",
        "1 10 . C G . PASS DP=3 GT 1",
    ]
    (record,), _ = parted(write(tmp_path / "a.vcf", rows, ["P1"], header))
    assert counts(record, tmp_path) == {"BRCA1_mut": 1}
    assert (record.attributes["build"], record.attributes["variants"]) == ("GRCh37", 2)


def test_without_genes_the_chromosomes_are_counted_as_one_by_one(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows, truth = [], [Counter[str](), Counter[str]()]
    for position in range(300):
        chromosome, genotypes = draw.choice(["1", "chr1", "X"]), [draw.choice(["0/0", "0/1", "1/1"]) for _ in range(2)]
        rows.append(f"{chromosome} {position} . A C . PASS . GT {' '.join(genotypes)}")
        for sample, genotype in zip(truth, genotypes, strict=True):
            sample[f"chr{chromosome[-1]}_variants"] += "1" in genotype
    found, _ = parted(write(tmp_path / "a.vcf", rows, ["A1", "A2"], "##fileformat=VCFv4.1\n"))
    assert [counts(r, tmp_path) for r in found] == truth


def test_a_caller_that_was_told_no_name_leaves_it_to_the_folder(tmp_path: Path) -> None:
    (tmp_path / "patient7").mkdir()
    items = list(records.read(write(tmp_path / "patient7/calls.vcf", ROWS, ["NORMAL", "TUMOR"]), tmp_path))
    assert isinstance(items[0], Rejected)
    assert items[0].found == "the normal sample of a tumour"
    assert isinstance(items[1], Record)
    assert (items[1].patient, items[1].attributes["anonymous"]) == ("patient7", True)
    sites = "##fileformat=VCFv4.2\n" + "\t".join(COLUMNS[:8]) + "\n1\t5\t.\tA\tG\t.\tPASS\t.\n"
    (tmp_path / "patient7/sites.vcf").write_text(sites)
    (record,) = records.read(tmp_path / "patient7/sites.vcf", tmp_path)
    assert isinstance(record, Record)
    assert counts(record, tmp_path) == {"chr1_variants": 1}
    assert "het" not in record.attributes


def test_lines_that_are_none_are_set_aside_and_the_others_count(tmp_path: Path) -> None:
    rows = [*ROWS[:2], "chr1 5 .", "chr1 x . A G . PASS . GT 0/1 0/1", *["chr1 7 ."] * 30]
    found, reasons = parted(write(tmp_path / "a.vcf", rows, ["P1", "P2"]))
    assert [r.attributes["variants"] for r in found] == [1, 2]
    assert reasons[:2] == ["a line of 3 columns (line 7)", "a line without a position and two alleles (line 8)"]
    assert (len(reasons), reasons[-1]) == (21, "12 more lines that are none")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"##fileformat=VCFv3.3\n", "a file that is no VCF 4"),
        (b"##fileformat=VCFv4.2\n##x\n", "a VCF without its header line"),
        (HEADER.encode() + "\t".join([*COLUMNS, "P1", "P1"]).encode(), "two samples of one name"),
        (b"##fileformat=VCFv4.2\n" + b"#" * 2**25, "a row of over 17 million characters"),
    ],
)
def test_what_is_no_vcf_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.vcf").write_bytes(data)
    found, reasons = parted(tmp_path / "a.vcf")
    assert not found
    assert reasons[0].startswith(reason)


def test_a_packed_file_cut_short_gives_no_half_counts(tmp_path: Path) -> None:
    rows = [f"1 {i} . A {'CGT'[i * 7919 % 3]} . PASS . GT 0/1" for i in range(5000)]
    path = write(tmp_path / "a.vcf.gz", rows, ["P1"])
    path.write_bytes(path.read_bytes()[:-20])
    assert parted(path) == ([], ["a broken gzip file (EOFError)"])


def test_a_small_packed_file_of_many_counts_stops_in_bounded_memory(tmp_path: Path) -> None:
    """Samples that carry every one of many genes' variants: two characters each."""
    rows = "".join(
        f"1 {i} . A G . . ANN=G|x|HIGH|GENE{i}| GT".replace(" ", "\t") + "\t1" * 300 + "\n" for i in range(1200)
    )
    names = "\t".join([*COLUMNS, *(f"S{i}" for i in range(300))])
    (tmp_path / "a.vcf.gz").write_bytes(gzip.compress((HEADER + names + "\n").encode() + rows.encode(), 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            variants, "MOST_COUNTS", 100_000
        )  # the bound itself, a hundred times smaller: the same test in a second
        found, reasons = parted(tmp_path / "a.vcf.gz")
    assert not found
    assert reasons == ["more samples or mutations than are held at once"]
    names = "\t".join([*COLUMNS, *(f"S{i}" for i in range(100_001))])
    (tmp_path / "b.vcf").write_text(HEADER + names + "\n")
    assert parted(tmp_path / "b.vcf") == ([], ["100001 samples"])
