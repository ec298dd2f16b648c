from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from polyclinic import records
from polyclinic.records import maf
from polyclinic.schema import Modality
from reading import parted

COLUMNS = ["Hugo_Symbol", "Chromosome", "Variant_Classification", "Tumor_Sample_Barcode", "FILTER"]


def write(path: Path, rows: list[list[str]], columns: list[str] = COLUMNS, above: str = "#version gdc-1.0.0\n") -> Path:
    data = (above + "".join("\t".join(row) + "\n" for row in [columns, *rows])).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.maf", "a.maf.gz", "mutations.txt"])
def test_it_is_pandas_on_random_mutations(tmp_path: Path, name: str) -> None:
    random = np.random.default_rng(0)
    classes = [*sorted(maf.NON_SILENT), "Silent", "Intron", "3'UTR"]
    barcodes = [f"TCGA-AB-{i:04d}-01A-11D" for i in range(5)]
    draw = lambda values: str(random.choice(values))
    rows = [[draw(list("ABCDEF")) * 3, "1", draw(classes), draw(barcodes), draw(["PASS", "panel"])] for _ in range(400)]
    found, reasons = parted(write(tmp_path / name, rows))
    assert reasons == []
    frame = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    passed = frame.loc[frame["FILTER"] == "PASS"]
    silent = np.isin(passed["Variant_Classification"].to_numpy(str), ["Silent", "Intron", "3'UTR"])
    changing = passed.loc[~silent]
    truth = pd.crosstab(changing["Tumor_Sample_Barcode"], changing["Hugo_Symbol"])
    assert [r.patient for r in found] == [b[:12] for b in frame["Tumor_Sample_Barcode"].unique()]
    for record in found:
        barcode = record.attributes["sample"]
        payload = records.load(record, tmp_path)
        assert payload.names == tuple(f"{gene}_mut" for gene in truth.columns)
        assert payload.array.tolist() == truth.loc[barcode].tolist()
        mine = passed[passed["Tumor_Sample_Barcode"] == barcode]
        assert {c: record.attributes.get(c, 0) for c in classes} == {
            c: (mine["Variant_Classification"] == c).sum() for c in classes
        }
        assert record.attributes["variants"] == len(mine)
        assert record.attributes["non_silent"] == truth.loc[barcode].sum()
        assert (record.modality, record.kind) == (Modality.OMICS, "mutation")


def test_a_tumour_whose_every_mutation_failed_its_filter_has_none_and_is_there(tmp_path: Path) -> None:
    (record,), _ = parted(write(tmp_path / "a.maf", [["TP53", "17", "Silent", "S1", "wga"]]))
    assert (record.patient, record.attributes["variants"], record.attributes["failed_filters"]) == ("S1", 0, 1)


def test_rows_that_are_none_are_set_aside(tmp_path: Path) -> None:
    rows = [["TP53", "17", "Silent", "", "PASS"], ["TP53", "17"], ["TP53", "17", "Nonsense_Mutation", "S1", "PASS"]]
    found, reasons = parted(write(tmp_path / "a.maf", rows))
    assert [r.attributes["non_silent"] for r in found] == [1]
    assert reasons == ["a mutation of no sample or no gene (line 3)", "a line of 2 columns (line 4)"]


def test_what_is_no_maf_is_refused(tmp_path: Path) -> None:
    assert parted(write(tmp_path / "a.maf", [], ["Hugo_Symbol", "x"])) == (
        [],
        ["a MAF without the column Tumor_Sample_Barcode"],
    )
    assert parted(write(tmp_path / "b.maf", [])) == ([], ["a MAF without a mutation"])
    path = write(tmp_path / "c.maf.gz", [["TP53", "17", "Silent", f"S{i * 7919}", "PASS"] for i in range(3000)])
    path.write_bytes(path.read_bytes()[:-20])
    assert parted(path) == ([], ["a broken gzip file (EOFError)"])
