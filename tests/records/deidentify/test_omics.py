"""Omics: the names of samples and what is said of them go, genes and values stay, and a sample is still its patient's."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from polyclinic import records
from polyclinic.records.deidentify import Report, open_key
from polyclinic.schema import Record

PLANTED = (
    "Zebedee", "Quillon", "Ottoline", "Barnaby", "Vandermeer", "Thistlewood", "Elsewhere", "MRN55001", "MRN55002", "TCGA-02-0001",
    "TCGA-A2-A3XS", "zq@example.org", "2019-03-14", "20190314", "1932-04-11", "/home/barnaby", "Clementine", "943-47-8120",
    "0a1b2c3d-1111-2222-3333-444455556666", "R-A32O-07",
)  # fmt: skip
GENES = [f"GENE{n}" for n in range(30)]
SAMPLES = ["MRN55001", "TCGA-02-0001-01C-11R-A32O-07", "TCGA-02-0001-11A-11R-A32O-07", "Zebedee Quillon"]
VALUES = np.random.default_rng(3).gamma(2.0, 5.0, (30, 4)).round(3)

BARCODES = [*SAMPLES[1:3], "TCGA-A2-A3XS-01A-11R-A32O-07", "TCGA-A2-A3XT-01A-11R-A32O-07"]
Look = Callable[[Iterable[str]], None]


def matrices(path: Path) -> list[tuple[str, dict[str, float]]]:
    found = []
    for record in records.read(path):
        assert isinstance(record, Record), record
        payload = records.load(record, path.parent)
        found.append((record.patient, dict(zip(payload.names or (), map(float, payload.array), strict=True))))
    return found


def same(before: Path, after: Path, key: Any, patients: list[str]) -> None:
    """The same genes and values, sample by sample, of the same patients under their other names."""
    old, new = matrices(before), matrices(after)
    assert [who for who, _ in old] == patients
    by_name = lambda pairs: sorted(pairs, key=str)  # cells are read in the order of their patients' names
    assert by_name(new) == by_name((key.pseudonym(who), values) for who, values in old)


PATIENTS = ["MRN55001", "TCGA-02-0001", "TCGA-02-0001", "Zebedee Quillon"]


@pytest.mark.parametrize("name", ["Zebedee.gct", "a.gct.gz"])
def test_gct(place: Path, clean: Callable[..., Report], none_left: Look, name: str) -> None:
    lines = ["#1.3", "30\t4\t2\t6", "\t".join(["id", "Description", "symbol", *SAMPLES])]
    for what, cells in {
        "patient_name": ["Zebedee", "Ottoline", "Barnaby", "Clementine"], "collected": ["2019-03-14"] * 4,
        "date_of_birth": ["1932-04-11"] * 4, "tissue": ["lung", "lung", "liver", "lung"],
        "note": ["seen by Dr. Vandermeer at zq@example.org"] * 4, "ssn": ["943-47-8120"] * 4,
    }.items():  # fmt: skip
        lines.append("\t".join([what, "", "", *cells]))
    for number, gene in enumerate(GENES):
        told = "growth factor" if number else "measured for Dr. Thistlewood"
        lines.append("\t".join([gene, told, f"S{number}", *map(str, VALUES[number])]))
    text = "\n".join(lines) + "\n"
    path = place / "in" / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    clean()
    none_left(PLANTED)
    (after,) = (p for p in (place / "out").iterdir() if ".gct" in p.name)
    same(path, after, open_key(place / "key"), PATIENTS)
    about = [r.attributes for r in records.read(after) if isinstance(r, Record)]
    assert [a["tissue"] for a in about] == ["lung", "lung", "liver", "lung"]
    assert all("name" not in key and key != "ssn" for a in about for key in a if key != "sample")
    written = gzip.decompress(after.read_bytes()) if name.endswith("gz") else after.read_bytes()
    assert b"growth factor" in written


@pytest.mark.parametrize("form", ["gct 1.2", "csv", "tsv.gz"])
def test_a_table_with_a_sample_a_column(place: Path, clean: Callable[..., Report], none_left: Look, form: str) -> None:
    mark = "," if form == "csv" else "\t"
    rows = [
        mark.join([gene, *(["x"] if form == "gct 1.2" else []), *map(str, VALUES[n])]) for n, gene in enumerate(GENES)
    ]
    head = mark.join(
        ["Name" if form == "gct 1.2" else "gene", *(["Description"] if form == "gct 1.2" else []), *SAMPLES]
    )
    text = "\n".join([*(["#1.2", "30\t4"] if form == "gct 1.2" else []), head, *rows]) + "\n"
    path = place / f"in/MRN55001.{form.split()[0]}"
    path.write_bytes(gzip.compress(text.encode()) if form.endswith("gz") else text.encode())
    clean()
    none_left(PLANTED)
    (after,) = (p for p in (place / "out").iterdir() if not p.name.startswith("."))
    same(path, after, open_key(place / "key"), PATIENTS)


VCF = """##fileformat=VCFv4.2
##fileDate=20190314
##source=/home/barnaby/gatk --sample Zebedee
##reference=file:///home/barnaby/GRCh38/MRN55001.fa
##contig=<ID=chr17,length=83257441,assembly=GRCh38,md5=0,species="Zebedee">
##SAMPLE=<ID=MRN55001,Description="Zebedee Quillon 1932-04-11">
##PEDIGREE=<Child=MRN55001,Mother=Ottoline>
##INFO=<ID=DP,Number=1,Type=Integer,Description="Depth, as Dr. Vandermeer has it">
##INFO=<ID=ANN,Number=.,Type=String,Description="Functional annotations: 'Allele | Annotation | Impact | Gene_Name'">
##INFO=<ID=WHO,Number=1,Type=String,Description="Who">
##INFO=<ID=OK,Number=0,Type=Flag,Description="fine">
##FILTER=<ID=q10,Description="Quality below 10">
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
##FORMAT=<ID=AD,Number=R,Type=Integer,Description="Depths">
##FORMAT=<ID=NOTE,Number=1,Type=String,Description="note">
##bcftools_viewCommand=view /home/barnaby/Elsewhere.vcf; Date=Thu Mar 14 2019
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tMRN55001\tTCGA-A2-A3XS-01A-11R-A32O-07
chr17\t7673802\trs28934576\tC\tT\t99.5\tPASS\tDP=100;ANN=T|missense_variant|MODERATE|TP53;WHO=Zebedee;OK\tGT:AD:NOTE\t0/1:50,50:Barnaby\t0/0:99,1:2019-03-14
chr17\t7674220\tMRN55001\tC\tA,G\t.\tPASS\tDP=Zebedee;ANN=A|stop_gained|HIGH|TP53,G|synonymous_variant|LOW|TP53\tGT:AD:NOTE\t1/2:1,2,3:x\t./.:.:y
chr17\t7674221\t.\tC\tA\t12\tq10\tDP=7;SECRET=Thistlewood\tGT:AD:NOTE\t0/1:Elsewhere:x\t0|1:3,4:y
"""


@pytest.mark.parametrize("name", ["Zebedee_20190314.vcf", "a.vcf.gz"])
def test_vcf(place: Path, clean: Callable[..., Report], none_left: Look, name: str) -> None:
    path = place / "in" / name
    path.write_bytes(gzip.compress(VCF.encode()) if name.endswith("gz") else VCF.encode())
    clean()
    none_left([*PLANTED, "barnaby", "7/", "WHO=", "SECRET"])
    (after,) = (p for p in (place / "out").iterdir() if ".vcf" in p.name)
    same(path, after, open_key(place / "key"), ["MRN55001", "TCGA-A2-A3XS"])
    old, new = ([r.attributes for r in records.read(p) if isinstance(r, Record)] for p in (path, after))
    for was, now in zip(old, new, strict=True):
        assert {k: v for k, v in now.items() if k != "sample"} == {k: v for k, v in was.items() if k != "sample"}
    text = (gzip.decompress(after.read_bytes()) if name.endswith("gz") else after.read_bytes()).decode()
    assert "\tDP=100;ANN=T|missense_variant|MODERATE|TP53;OK\tGT:AD\t0/1:50,50\t0/0:99,1\n" in text
    assert "-01A\n" in text


def test_maf(place: Path, clean: Callable[..., Report], none_left: Look) -> None:
    columns = [
        "Hugo_Symbol",
        "Center",
        "NCBI_Build",
        "Chromosome",
        "Start_Position",
        "Variant_Classification",
        "Tumor_Sample_Barcode",
    ]
    columns += [
        "Matched_Norm_Sample_Barcode",
        "Tumor_Sample_UUID",
        "BAM_File",
        "Sequencer",
        "t_depth",
        "HGVSp_Short",
        "Sequencing_Notes",
        "FILTER",
    ]
    row = lambda gene, barcode, kind: [
        gene, "Elsewhere", "GRCh38", "chr17", "7673802", kind, barcode, "TCGA-02-0001-10A-11R-A32O-07",
        "0a1b2c3d-1111-2222-3333-444455556666", "/home/barnaby/Zebedee.bam", "20190314", "100", "p.R175H", "by Vandermeer", "PASS",
    ]  # fmt: skip
    rows = [
        row("TP53", "TCGA-02-0001-01C-11R-A32O-07", "Missense_Mutation"), row("KRAS", "TCGA-A2-A3XS-01A-11R-A32O-07", "Silent"),
        row("EGFR", "TCGA-02-0001-01C-11R-A32O-07", "Nonsense_Mutation"),
    ]  # fmt: skip
    path = place / "in/Zebedee_calls.maf"
    path.write_text(
        "#version gdc-1.0.0\n#by Barnaby 2019-03-14\n" + "\n".join("\t".join(r) for r in [columns, *rows]) + "\n"
    )
    clean()
    none_left(PLANTED)
    (after,) = (p for p in (place / "out").iterdir() if ".maf" in p.name)
    same(path, after, open_key(place / "key"), ["TCGA-02-0001", "TCGA-A2-A3XS"])
    table = pd.read_csv(after, sep="\t", comment="#")
    assert table["HGVSp_Short"].tolist() == ["p.R175H"] * 3
    assert table["t_depth"].tolist() == [100] * 3


@pytest.mark.parametrize("donors", [True, False])
def test_h5ad(place: Path, clean: Callable[..., Report], none_left: Look, donors: bool) -> None:
    count = 60 if donors else 4
    random = np.random.default_rng(0)
    names = [f"MRN5500{1 + n % 2}_AAACCTGAGAAACC{'ACGT'[n % 4]}T-{n}" for n in range(count)] if donors else BARCODES
    obs = pd.DataFrame(index=pd.Index(names))
    if donors:
        obs["donor_id"] = pd.Categorical([f"MRN5500{1 + n % 2}" for n in range(count)])
    obs["patient name"] = ["Zebedee", "Ottoline"] * (count // 2)
    obs["collected"] = ["2019-03-14"] * count
    obs["note"] = ["seen by Dr. Vandermeer at Saint Elsewhere, no cough"] * count
    obs["cell_type"] = pd.Categorical(["T cell", "B cell"] * (count // 2))
    obs["n_counts"] = random.integers(1, 99, count).astype(np.int32)
    var = pd.DataFrame(
        {"gene_ids": [f"ENSG{n:011d}" for n in range(30)], "curator": ["Barnaby"] * 30}, index=pd.Index(GENES)
    )
    counts = sp.csr_matrix(random.poisson(1.0, (count, 30)).astype(np.float32))
    data: Any = anndata.AnnData(counts, obs=obs, var=var)
    data.layers["counts"] = counts.copy()
    data.obsm["X_pca"] = random.normal(size=(count, 2))
    data.uns["made by"] = "Clementine Thistlewood, 943-47-8120"
    data.uns["paths"] = {"Zebedee": np.array(["/home/barnaby"])}
    data.raw = data.copy()
    path = place / "in/Zebedee_MRN55001.h5ad"
    data.write_h5ad(path)
    clean()
    none_left(PLANTED)
    (after,) = (place / "out").glob("*.h5ad")
    new: Any = anndata.read_h5ad(after)
    text = " ".join(map(str, [*new.obs_names, *new.obs.columns, *new.var.columns, new.obs.to_dict()]))
    assert not [p for p in PLANTED if p in text]
    assert (new.X.toarray() == counts.toarray()).all()
    assert (new.layers["counts"].toarray() == counts.toarray()).all()
    assert (new.raw.X.toarray() == counts.toarray()).all()
    assert new.var_names.tolist() == GENES
    assert new.var["gene_ids"].tolist() == var["gene_ids"].tolist()
    assert new.obs["cell_type"].tolist() == obs["cell_type"].tolist()
    assert new.obs["n_counts"].tolist() == obs["n_counts"].tolist()
    assert (np.asarray(new.obsm["X_pca"]) == np.asarray(data.obsm["X_pca"])).all()
    assert len(new.uns) == 0
    people = ["MRN55001", "MRN55002"] if donors else [b[:12] for b in BARCODES]
    same(path, after, open_key(place / "key"), people)


def test_a_real_section_keeps_its_counts(place: Path, clean: Callable[..., Report], shared_data: Path) -> None:
    """The 10x file of a real Visium section."""
    source = min((shared_data / "visium").rglob("*filtered_feature_bc_matrix.h5"))
    path = place / "in/MRN55001_filtered_feature_bc_matrix.h5"
    path.write_bytes(source.read_bytes())
    assert clean().kinds == {"10x": 1}
    (after,) = (place / "out").rglob("*.h5")
    same(path, after, open_key(place / "key"), ["MRN55001"])


def test_real_expression_is_the_same_table(place: Path, clean: Callable[..., Report], shared_data: Path) -> None:
    """TCGA's bladder cancers turned to a sample a column: 20 patients, a thousand genes."""
    source = next((shared_data / "tcga-omics").rglob("*blca*.csv*"))
    wide = pd.read_csv(source, nrows=20)
    genes = [c for c in wide.columns if c.endswith("_rnaseq")][:1000]
    turned: Any = wide.set_index("slide_id" if "slide_id" in wide else wide.columns[0])[genes].T
    turned.columns = pd.Index([str(c)[:12] + "-01A" for c in turned.columns])
    turned = turned.loc[:, ~turned.columns.duplicated()]
    turned.index.name = "gene"
    path = place / "in/expression.csv"
    turned.to_csv(path)
    clean()
    (after,) = (p for p in (place / "out").iterdir() if p.suffix == ".csv")
    same(path, after, open_key(place / "key"), [c[:12] for c in turned.columns])
    assert b"TCGA" not in after.read_bytes()
