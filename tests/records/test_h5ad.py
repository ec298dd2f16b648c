"""Expression matrices in HDF5, written by `anndata`; truth is pandas on the whole, dense table."""

from __future__ import annotations

import datetime as dt
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from polyclinic import records
from polyclinic.records import hdf5
from polyclinic.schema import Modality, Record
from reading import parted

FORMS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}
GENES = [f"GENE{i}" for i in range(30)]


def frame(names: Sequence[str], **columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(list(names)))


def cells(n: int = 90, form: str = "csr", seed: int = 0) -> anndata.AnnData:
    """Counts of cells of three donors in no order."""
    random = np.random.default_rng(seed)
    counts = random.poisson(0.4, (n, len(GENES))).astype(np.float32)
    who = random.choice(["D3", "D1", "D2"], n).tolist()
    obs = frame(
        ["".join(random.choice(list("ACGT"), 16)) + "-1" for _ in range(n)],
        donor_id=pd.Categorical(who), cell_type=pd.Categorical(random.choice(["T", "B"], n)), n_counts=counts.sum(1),
        sex=pd.Categorical([{"D1": "female"}.get(w, "male") for w in who]), age=[{"D1": 61, "D2": 72, "D3": 55}[w] for w in who],
    )  # fmt: skip
    return anndata.AnnData(FORMS[form](counts), obs=obs, var=frame(GENES))


def by_donor(data: anndata.AnnData) -> Any:
    return data.to_df().groupby(data.obs["donor_id"].astype(str))


@pytest.mark.parametrize("form", FORMS)
def test_a_patients_cells_are_one_record_of_summed_counts(tmp_path: Path, form: str) -> None:
    data = cells(form=form)
    data.write_h5ad(tmp_path / "blood.h5ad")
    found, reasons = parted(tmp_path / "blood.h5ad")
    assert reasons == []
    assert [r.patient for r in found] == ["D1", "D2", "D3"]
    assert {(r.kind, r.modality) for r in found} == {("single-cell RNA-seq", Modality.OMICS)}
    for record in found:
        payload = records.load(record, tmp_path)
        assert payload.names == tuple(GENES)
        assert payload.array.dtype == np.float32
        assert payload.array.tolist() == by_donor(data).sum().loc[record.patient].tolist()
        assert record.attributes["cells"] == (data.obs["donor_id"] == record.patient).sum()
    one = found[0].attributes
    assert (one["sex"], one["age"], one["genes"], one["counts"], one["matrix"]) == ("female", 61, 30, True, "X")
    assert "cell_type" not in one  # not one value within the patient
    assert found[0].uri == "blood.h5ad#sample=0"


def test_the_counts_are_taken_wherever_the_file_keeps_them(tmp_path: Path) -> None:
    data = cells()
    truth = by_donor(data).sum()
    normal = data.copy()
    normal.X = sp.csr_matrix(np.log1p(data.X.toarray() / 7))  # type: ignore[union-attr]
    normal.layers["counts"], normal.layers["scaled"] = data.X, normal.X
    normal.write_h5ad(tmp_path / "layer.h5ad")
    del normal.layers["counts"], normal.layers["scaled"]
    normal.raw = data
    few = normal[:, :10].copy()
    few.write_h5ad(tmp_path / "raw.h5ad")
    del few.raw
    few.write_h5ad(tmp_path / "none.h5ad")
    expected = {"layer": ("layers/counts", GENES), "raw": ("raw/X", GENES), "none": ("X", GENES[:10])}
    for name, (place, genes) in expected.items():
        found, _ = parted(tmp_path / f"{name}.h5ad")
        assert {r.attributes["matrix"] for r in found} == {place}
        assert {r.attributes["counts"] for r in found} == {name != "none"}
        payload = records.load(found[1], tmp_path)
        assert payload.names == tuple(genes)
        means = by_donor(few).mean()
        assert np.allclose(payload.array, means.loc["D2"] if name == "none" else truth.loc["D2"], rtol=1e-6)
    assert parted(tmp_path / "layer.h5ad")[0][0].attributes["layers"] == "counts, scaled"


def test_samples_are_records_of_their_own_with_their_columns(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    values = random.normal(size=(4, 30)).astype(np.float32)
    values[2, 5] = np.nan
    columns = {
        "Patient ID": ["P1", "P2", "P2", None], "date": ["2020-01-31", "2021-05-06", "2022-05-06", "2020-01-01"],
        "site": [3.0, 4.0, 4.0, 4.0], "responder": pd.array([True, None, False, True], dtype="boolean"),
        "stage": pd.Categorical(["II", None, "IV", "I"]), "dose": pd.array([1, None, 3, 4], dtype="Int64"),
    }  # fmt: skip
    obs = frame(["s1", "s2", "s3", "s4"], **columns)
    anndata.AnnData(values, obs=obs, var=frame(GENES)).write_h5ad(tmp_path / "bulk.h5ad")
    found, reasons = parted(tmp_path / "bulk.h5ad")
    assert reasons == ["row 3 without a patient"]
    assert [(r.patient, r.uri.rpartition("=")[2]) for r in found] == [("P1", "0"), ("P2", "1"), ("P2", "2")]
    assert (found[0].time, found[0].site, found[0].kind) == (dt.datetime(2020, 1, 31), "3", "omics")
    told = {k: v for k, v in found[0].attributes.items() if k in ("responder", "stage", "dose")}
    assert told == {"responder": True, "stage": "II", "dose": 1}
    assert {"responder", "stage", "dose"}.isdisjoint(found[1].attributes)  # not known
    for record, row in zip(found, values, strict=False):
        assert np.array_equal(records.load(record, tmp_path).array, row, equal_nan=True)


def test_samples_named_as_tcga_does_are_their_patients(tmp_path: Path) -> None:
    names = ["TCGA-02-0001-01C", "TCGA-02-0001-11A", "TCGA-AA-3664-01A-02R"]
    counts = np.arange(6, dtype=np.float32).reshape(3, 2)
    anndata.AnnData(counts, frame(names), frame(["A", "B"])).write_h5ad(tmp_path / "a.h5ad")
    assert [r.patient for r in parted(tmp_path / "a.h5ad")[0]] == ["TCGA-02-0001", "TCGA-02-0001", "TCGA-AA-3664"]
    anndata.AnnData(counts, frame(["a", "b", "c"], x=[1, 2, 3])).write_h5ad(tmp_path / "b.h5ad")
    assert parted(tmp_path / "b.h5ad") == ([], ["a table with the columns x"])


def test_cells_of_nobody_are_set_aside_together_and_cells_without_a_column_are_the_folders(tmp_path: Path) -> None:
    data = cells()
    data.obs["donor_id"] = data.obs["donor_id"].cat.remove_categories(["D2"])
    data.write_h5ad(tmp_path / "a.h5ad")
    found, reasons = parted(tmp_path / "a.h5ad")
    assert [r.patient for r in found] == ["D1", "D3"]
    assert reasons == [f"{data.obs['donor_id'].isna().sum()} rows without a patient"]
    data.obs = data.obs.drop(columns="donor_id")  # type: ignore[union-attr]
    (tmp_path / "study/ward/outs").mkdir(parents=True)
    data.write_h5ad(tmp_path / "study/ward/outs/filtered_feature_bc_matrix.h5ad")
    (record,) = records.read(tmp_path / "study/ward/outs/filtered_feature_bc_matrix.h5ad", tmp_path)
    assert isinstance(record, Record)
    assert record.patient == "ward"
    (tmp_path / "patient7").mkdir()
    data.write_h5ad(tmp_path / "patient7/cells.h5ad")
    (record,) = records.read(tmp_path / "patient7/cells.h5ad", tmp_path)
    assert isinstance(record, Record)
    assert record.patient == "patient7"
    assert np.array_equal(records.load(record, tmp_path).array, data.to_df().sum())


def test_genes_stand_once_without_version_and_antibodies_are_none(tmp_path: Path) -> None:
    names = ["ENSG00000141510.16", "ENSG00000141510.9", "TP53", "CD3"]
    var = frame(names, feature_types=["Gene Expression"] * 3 + ["Antibody Capture"])
    counts = np.array([[1, 2, 3, 900], [0, 5, 1, 900]], np.float32)
    obs = frame(["a", "b"], patient=["P1", "P2"])
    anndata.AnnData(counts, obs, var).write_h5ad(tmp_path / "a.h5ad")
    found, _ = parted(tmp_path / "a.h5ad")
    payload = records.load(found[0], tmp_path)
    assert payload.names == ("ENSG00000141510", "TP53")
    assert payload.array.tolist() == [3, 3]


def test_what_is_infinite_is_not_known(tmp_path: Path) -> None:
    values = np.array([[1.5, np.inf, 1e300, -np.inf]])
    anndata.AnnData(values, frame(["a"], patient=["P1"]), frame("ABCD")).write_h5ad(tmp_path / "a.h5ad")
    (record,), _ = parted(tmp_path / "a.h5ad")
    assert np.array_equal(records.load(record, tmp_path).array, [1.5, np.nan, np.nan, np.nan], equal_nan=True)


def test_a_large_sparse_matrix_is_summed_without_ever_being_dense(tmp_path: Path) -> None:
    """60,000 cells of 20,000 genes: 9.6 GB where they are dense."""
    random, n, g = np.random.default_rng(0), 60_000, 20_000
    counts = sp.csr_matrix(
        (np.ones(1_200_000, np.float32), random.integers(0, g, 1_200_000), np.arange(0, 1_200_001, 20)), (n, g)
    )
    obs = frame([f"c{i}" for i in range(n)], patient=np.arange(n) % 7)
    var = frame([f"G{i}" for i in range(g)])
    anndata.AnnData(counts, obs, var).write_h5ad(tmp_path / "a.h5ad")
    tracemalloc.start()
    _, _, *rows = hdf5.profiles(str(tmp_path / "a.h5ad"), ["patient"], 2, 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300 * 2**20
    for number, row in zip((2, 3), rows, strict=True):
        assert np.array_equal(row, np.asarray(counts[np.arange(n) % 7 == number].sum(0)).ravel())


def tamper(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        cells().write_h5ad(path)
        with h5py.File(path, "r+") as file:
            change(file)

    return make


def replaced(place: str, **options: Any) -> Callable[[Path], None]:
    def change(file: Any) -> None:
        del file[place]
        file.create_dataset(place, **options)

    return tamper(change)


def linked(link: Any) -> Callable[[Path], None]:
    def change(file: Any) -> None:
        del file["X"]
        file["X"] = link

    return tamper(change)


def virtual(file: Any) -> None:
    del file["X/data"]
    layout = h5py.VirtualLayout((1000,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (1000,))
    file.create_virtual_dataset("X/data", layout)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "external link": (linked(h5py.ExternalLink("/etc/other.h5", "/X")), "an HDF5 file with links to elsewhere"),
    "soft link": (linked(h5py.SoftLink("/obs/../../X")), "an HDF5 file with links to elsewhere"),
    "external data": (
        replaced("X/data", shape=(8,), dtype="u1", external=[("/etc/passwd", 0, 8)]), "an HDF5 file whose data lie in other files",
    ),
    "virtual data": (tamper(virtual), "an HDF5 file whose data lie in other files"),
    "two tebibytes of ends": (replaced("X/indptr", shape=(2**38,), dtype="i8", chunks=(1000,)), "'indptr' in"),
    "two gibibytes of codes": (
        replaced("obs/donor_id/codes", shape=(2**31,), dtype="i1", chunks=(1000,)), "'codes' in an HDF5 file, which is 2.0 GiB long",
    ),
    "a chunk of three gibibytes": (
        replaced("X/data", shape=(2**30,), dtype="f4", chunks=(3 * 2**28,)), "'data' in an HDF5 file, which is in chunks of 3.0",
    ),
    "ends that go back": (tamper(lambda f: f["X/indptr"].__setitem__(5, 0)), "'indptr'"),
    "a gene that is not": (tamper(lambda f: f["X/indices"].__setitem__(7, 99)), "'indices'"),
    "fewer names": (tamper(lambda f: f["X"].attrs.__setitem__("shape", [90, 31])), "'_index' in an HDF5 file, which is 30 names of 31"),
    "no table": (tamper(lambda f: f.__delitem__("obs")), "an HDF5 file that is neither AnnData"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_gets_its_reason(tmp_path: Path, name: str) -> None:
    make, reason = HOSTILE[name]
    make(tmp_path / "a.h5ad")
    found, reasons = parted(tmp_path / "a.h5ad")
    for record in found:  # what only the matrix shows
        with pytest.raises(records.RecordError) as error:
            records.load(record, tmp_path)
        reasons.append(error.value.found)
    assert reasons[0].startswith(reason)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_file_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    cells().write_h5ad(tmp_path / "a.h5ad")
    data = (tmp_path / "a.h5ad").read_bytes()
    (tmp_path / "a.h5ad").write_bytes(data[: int(len(data) * share)])
    assert parted(tmp_path / "a.h5ad") == ([], ["an HDF5 file that was cut short"])


def test_a_real_visium_section_is_one_profile_with_its_spots_in_mm(shared_data: Path) -> None:
    place = "visium/1.0.0/filtered_feature_bc_matrix.h5"
    (record,) = records.read(shared_data / place, shared_data)
    assert isinstance(record, Record)
    payload = records.load(record, shared_data)
    with h5py.File(shared_data / place) as file:
        of: Any = file["matrix"]
        whole = sp.csc_matrix((of["data"][()], of["indices"][()], of["indptr"][()]), of["shape"][()]).toarray()
        names = [n.decode() for n in of["features/name"][()]]
    assert payload.names == tuple(names)
    assert np.array_equal(payload.array, whole.sum(1))
    assert record.attributes["cells"] == whole.shape[1]
    assert payload.places is not None
    apart = np.linalg.norm(payload.places[:500, None, :2] - payload.places[None, :500, :2], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert np.median(apart.min(1)) == pytest.approx(0.1, rel=0.02)  # 10x Genomics: 100 µm from spot to spot


def test_a_real_probe_matrix_counts_its_filtered_barcodes_only(shared_data: Path) -> None:
    path = shared_data / "visium/2.1.0/raw_probe_bc_matrix.h5"
    (record,) = records.read(path, shared_data)
    assert isinstance(record, Record)
    with h5py.File(path) as file:
        of: Any = file["matrix"]
        whole = sp.csc_matrix((of["data"][()], of["indices"][()], of["indptr"][()]), of["shape"][()])
        kept, names = of["filtered_barcodes"][()], [n.decode() for n in of["features/gene_name"][()]]
    truth = pd.Series(np.asarray(whole[:, kept].sum(1)).ravel(), index=names).groupby(level=0, sort=False).sum()
    payload = records.load(record, shared_data)
    assert payload.names == tuple(truth.index)
    assert np.array_equal(payload.array, truth)
    assert record.attributes["cells"] == kept.sum()
