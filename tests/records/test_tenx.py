from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from polyclinic import records
from polyclinic.schema import Record
from reading import reasons

COUNTS = sp.random(40, 25, 0.3, rng=0, data_rvs=lambda n: np.random.default_rng(1).integers(1, 9, n)).tocoo()


def write(folder: Path, prefix: str = "", packed: bool = True, names: int = 40, kinds: bool = True) -> Path:
    """As Cell Ranger does: by scipy, gzipped, features with a type."""
    folder.mkdir(parents=True, exist_ok=True)
    scipy.io.mmwrite(folder / "m.mtx", COUNTS.astype(int), field="integer")
    data = (folder / "m.mtx").read_bytes()
    (folder / "m.mtx").unlink()
    kind = lambda i: ("\tAntibody Capture" if i == 39 else "\tGene Expression") if kinds else ""
    features = "".join(f"ENSG{i:011d}\tG{i // 2}{kind(i)}\n" for i in range(names))
    barcodes = "".join(f"ACGT{i}-1\n" for i in range(25))
    named = "features.tsv" if kinds else "genes.tsv"
    for name, text in (("matrix.mtx", data), (named, features.encode()), ("barcodes.tsv", barcodes.encode())):
        path = folder / f"{prefix}{name}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(text) if packed else text)
    return folder / f"{prefix}matrix.mtx{'.gz' if packed else ''}"


@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_is_one_record_of_summed_counts(tmp_path: Path, packed: bool) -> None:
    path = write(tmp_path / "patient7/filtered_feature_bc_matrix", packed=packed)
    (record,) = records.read(path, tmp_path)
    assert isinstance(record, Record)
    assert (record.patient, record.kind, record.attributes["cells"]) == ("patient7", "single-cell RNA-seq", 25)
    payload = records.load(record, tmp_path)
    assert payload.names == tuple(f"G{i}" for i in range(20))  # two features a name; the last one's antibody left out
    sums = np.asarray(COUNTS.sum(1)).ravel()
    sums[39] = 0
    assert payload.array.tolist() == sums.reshape(20, 2).sum(1).tolist()
    for other in path.parent.iterdir():
        assert len(list(records.read(other, tmp_path))) == (other == path)  # the lists belong to the matrix


def test_a_prefix_names_the_sample_and_genes_tsv_is_known(tmp_path: Path) -> None:
    (record,) = records.read(write(tmp_path, "GSM4138110_", kinds=False), tmp_path)
    assert isinstance(record, Record)
    assert record.patient == "GSM4138110"
    assert records.load(record, tmp_path).array.sum() == COUNTS.sum()


def test_a_raw_matrix_beside_its_filtered_one_is_set_aside(tmp_path: Path) -> None:
    raw = write(tmp_path / "S1/raw_feature_bc_matrix")
    assert [type(i) for i in records.read(raw, tmp_path)] == [Record]
    write(tmp_path / "S1/filtered_feature_bc_matrix")
    assert reasons(raw) == ["a raw matrix whose filtered one lies beside it"]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    assert reasons(write(tmp_path / "a", names=39)) == ["a matrix of 40 × 25"]
    path = write(tmp_path / "b", packed=False)
    whole = path.read_text()
    path.write_text(whole[: len(whole) * 2 // 3].rpartition("\n")[0] + "\n")
    assert reasons(path)[0].endswith(f"values where {COUNTS.nnz} are promised")
    path.write_text(whole.replace("40 25", "99999999999 25"))
    assert reasons(path) == ["a matrix of 99999999999 × 25"]
    path.write_text(whole.rpartition("\n")[0].rpartition("\n")[0] + "\n41 1 1\n")
    assert reasons(path) == ["a matrix with a row that has no name"]
    path.write_text(whole.replace("coordinate", "array"))
    assert reasons(path) == ["a file that is no sparse matrix of numbers"]
    (tmp_path / "b/barcodes.tsv").unlink()
    assert reasons(path) == ["a matrix without the names of its rows and columns"]
