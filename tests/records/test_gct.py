from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from polyclinic import records
from polyclinic.records import genes
from polyclinic.schema import Modality
from reading import parted

GENES = [f"GENE{i}" for i in range(30)]
SAMPLES = ["TCGA-02-0001-01", "TCGA-02-0003-01", "other3"]
VALUES = np.random.default_rng(0).normal(size=(30, 3)).round(4)


def gct(path: Path, version: str = "1.2", rows: int = 30, values: np.ndarray = VALUES) -> Path:
    head, above = f"{rows}\t3", ""
    columns = ["Name", "Description", *SAMPLES]
    if version == "1.3":
        head, above = f"{rows}\t3\t1\t2", "age\tna\t61\t?\t70\nPatient_ID\tna\tP1\tP2\tP3\n"
    body = "".join(
        "\t".join([name, "about", *map(str, row)]) + "\n" for name, row in zip(GENES, values.tolist(), strict=True)
    )
    data = f"#{version}\n{head}\n".encode() + ("\t".join(columns) + "\n" + above + body).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def table(path: Path, first: str, separator: str = "\t") -> Path:
    frame = pd.DataFrame(VALUES, index=pd.Index(GENES, name=first), columns=pd.Index(SAMPLES))
    frame.to_csv(path, sep=separator)
    return path


@pytest.mark.parametrize("form", ["gct", "gct.gz", "tsv", "tsv.gz", "csv"])
def test_a_column_is_a_sample_with_its_genes(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"a.{form}"
    gct(path) if "gct" in form else table(path, "sample" if "tsv" in form else "", "\t" if "tsv" in form else ",")
    found, reasons = parted(path)
    assert reasons == []
    assert [r.patient for r in found] == ["TCGA-02-0001", "TCGA-02-0003", "other3"]
    assert {r.modality for r in found} == {Modality.OMICS}
    for record, column in zip(found, VALUES.T, strict=True):
        payload = records.load(record, tmp_path)
        assert payload.names == tuple(GENES)
        assert np.array_equal(payload.array, column.astype(np.float32))


def test_gct_of_version_3_says_more_of_its_samples(tmp_path: Path) -> None:
    found, _ = parted(gct(tmp_path / "a.gct", "1.3"))
    assert [(r.patient, r.attributes["age"], r.attributes["sample"]) for r in found] == [
        ("P1", 61, SAMPLES[0]), ("P2", None, SAMPLES[1]), ("P3", 70, SAMPLES[2]),
    ]  # fmt: skip
    assert np.array_equal(records.load(found[2], tmp_path).array, VALUES[:, 2].astype(np.float32))


def test_a_table_of_patients_or_of_words_is_none(tmp_path: Path) -> None:
    body = "".join(f"W{i},1,2\n" for i in range(30))
    (tmp_path / "a.csv").write_text("name,patient_id,age\n" + body)
    assert {r.kind for r in parted(tmp_path / "a.csv")[0]} == {"table a"}
    (tmp_path / "c.csv").write_text("name,age,weight\n" + body)
    assert parted(tmp_path / "c.csv")[1] == ["a table with the columns name, age, weight"]
    (tmp_path / "b.csv").write_text("gene,S1,S2\n" + "".join(f"G{i},high,low\n" for i in range(30)))
    assert parted(tmp_path / "b.csv")[1] == ["a table with the columns gene, S1, S2"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.replace("30\t3", "31\t3"), "a GCT of 30 genes where 31 are promised"),
        (lambda s: s.replace("30\t3", "999999999\t3"), "a header that promises"),
        (lambda s: s.replace("30\t3", "30\t4"), "a GCT of 3 samples"),
        (lambda s: s.replace("#1.2", "#1.9"), "a GCT without its sizes"),
        (lambda s: s.replace("\nGENE7\tabout\t", "\nGENE7\tabout\tx"), "row 11 with a word"),
        (lambda s: s[: len(s) // 2], "row"),
    ],
)
def test_what_is_no_gct_is_refused(tmp_path: Path, change, reason: str) -> None:
    text = gct(tmp_path / "a.gct").read_text()
    (tmp_path / "a.gct").write_text(change(text))
    found, reasons = parted(tmp_path / "a.gct")
    assert not found
    assert reasons[0].startswith(reason)


def test_genes_of_one_name_are_summed_where_they_count_and_else_their_mean() -> None:
    names = ["ENSG00000141510.16", "A", "ENSG00000141510.3", "ENSG00000182378.14_PAR_Y"]
    values = np.array([[1, 2, 4, np.nan], [np.nan, 5, 6, 7]])
    for counts, expected in ((True, [[5, 2, np.nan], [6, 5, 7]]), (False, [[2.5, 2, np.nan], [6, 5, 7]])):
        once, merged = genes.once(names, values, counts)
        assert once == ("ENSG00000141510", "A", "ENSG00000182378")
        assert np.array_equal(merged, expected, equal_nan=True)
    assert genes.once(["C1orf112", "HLA-A.2"], values[:, :2], True)[0] == ("C1orf112", "HLA-A.2")  # as they are written
