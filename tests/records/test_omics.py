from __future__ import annotations

import csv
import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polyclinic import records
from polyclinic.records import omics
from polyclinic.schema import Modality, Record, Rejected

GENES = [f"G{i}_rnaseq" for i in range(201)]


def write(path: Path, rows: list[list[object]], header: list[str]) -> list[Record | Rejected]:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([header, *rows])
    data = out.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return [item for item in records.read(path) if isinstance(item, Record | Rejected)]


def test_a_row_is_a_sample_with_its_genes_in_the_array(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(2, 201)).round(4)
    rows = [["P1", 61, "A", *values[0]], ["P2", "", "B", "", *values[1][1:]]]
    found = write(tmp_path / "a.csv.gz", rows, ["case_id", "age", "site", *GENES])
    assert all(isinstance(r, Record) and r.modality is Modality.OMICS and r.kind == "RNA-seq" for r in found)
    one, two = found
    assert isinstance(one, Record)
    assert isinstance(two, Record)
    assert dict(one.attributes) == {"age": 61.0, "site": "A", "genes": 201}
    assert one.site == "A"
    payload = records.load(one, tmp_path)
    assert payload.names == tuple(GENES)
    assert np.allclose(payload.array, values[0])
    second = records.load(two, tmp_path).array
    assert np.isnan(second[0])  # not measured is not zero
    assert np.allclose(second[1:], values[1][1:])


def test_it_is_pandas_on_the_real_table(shared_data: Path) -> None:
    path = shared_data / "tcga-omics/tcga_blca_all_clean.csv.zip"
    frame = pandas.read_csv(path, low_memory=False)
    found = [r for r in records.read(path) if isinstance(r, Record)]
    genes = list(records.load(found[0], path.parent).names)
    assert genes == [c for c in frame.columns if c.endswith(("_rnaseq", "_cnv", "_mut"))]
    for record in found[::60]:
        row = int(record.uri.rpartition("=")[2]) - 1
        assert frame["case_id"][row] == record.patient
        assert np.allclose(records.load(record, path.parent).array, frame.loc[row, genes].astype(float), equal_nan=True)


def test_the_hospitals_packed_tables_are_omics_and_the_clinical_one_is_not(hospital: Path) -> None:
    kinds = {
        p.name: {r.kind for r in records.read(p) if isinstance(r, Record)} for p in (hospital / "oncology").iterdir()
    }
    assert kinds == {
        "bladder_expression.csv.gz": {"RNA-seq"}, "bladder_copy_number.csv.gz": {"copy number"},
        "bladder_clinical.csv": {"table bladder_clinical"},
    }  # fmt: skip


def test_a_sample_twice_is_kept_once(tmp_path: Path) -> None:
    row = ["P1", *range(201)]
    items = write(tmp_path / "a.csv", [row, row, ["P2", *range(201)], ["", *range(201)]], ["case_id", *GENES])
    assert [type(i).__name__ for i in items] == ["Record", "Rejected", "Record", "Rejected"]
    assert [i.found for i in items if isinstance(i, Rejected)] == [
        "row 2 repeats another row's genes",
        "row 4 without a patient",
    ]


def test_symbols_count_in_a_file_named_for_an_assay_only() -> None:
    header = ["case_id", "AGE", *(f"GENE{i}" for i in range(300))]
    assert len(omics.gene_columns(header, "expression.csv")) == 301
    assert omics.gene_columns(header, "laboratory.csv") == []


def test_a_row_that_is_gone_says_so(tmp_path: Path) -> None:
    found = write(tmp_path / "a.csv", [["P1", *range(201)], ["P2", *range(201)]], ["case_id", *GENES])
    last = found[-1]
    assert isinstance(last, Record)
    write(tmp_path / "a.csv", [["P1", *range(201)]], ["case_id", *GENES])
    import os

    os.utime(tmp_path / "a.csv", ns=(1, 1))
    with pytest.raises(records.RecordError, match="no row 2"):
        records.load(last, tmp_path)


def test_a_zip_with_litter_is_one_table(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
        archive.writestr("x/a.csv", "case_id," + ",".join(GENES) + "\nP1," + ",".join("1" * 201) + "\n")
        archive.writestr("__MACOSX/x/._a.csv", b"\x00")
    (record,) = records.read(tmp_path / "a.csv.zip")
    assert isinstance(record, Record)
    assert records.load(record, tmp_path).array.tolist() == [1.0] * 201


def test_a_wide_parquet_table_is_omics_too(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 201)).astype(np.float32)
    columns = {"case_id": ["P1", "P2", "P3"], **dict(zip(GENES, values.T, strict=True))}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = [r for r in records.read(tmp_path / "a.parquet") if isinstance(r, Record)]
    assert [(r.patient, r.kind, r.attributes["genes"]) for r in found] == [
        (p, "RNA-seq", 201) for p in ("P1", "P2", "P3")
    ]
    assert np.array_equal([records.load(r, tmp_path).array for r in found], values)


def test_versions_of_one_ensembl_gene_become_their_mean(tmp_path: Path) -> None:
    names = [f"ENSG{i:011d}.{v}" for i in range(150) for v in (1, 2)]
    (record,) = write(tmp_path / "expression.csv", [["P1", *range(300)]], ["case_id", *names])
    assert isinstance(record, Record)
    payload = records.load(record, tmp_path)
    assert payload.names == tuple(f"ENSG{i:011d}" for i in range(150))
    assert payload.array.tolist() == [2 * i + 0.5 for i in range(150)]
