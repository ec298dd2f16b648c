"""10x matrices and features of tiles: numbers the same to the bit, barcodes and genes kept, nothing else that says whose they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from polyclinic.records.deidentify import Report, open_key
from reading import load, only

PLANTED = (
    "Zebedee", "Quillon", "MRN55001", "Vandermeer", "Barnaby", "Elsewhere", "Thistlewood", "2019-03-14", "Ottoline", "Clementine",
    "zq@example.org", "S19-88123", "/home/", "TCGA-A2-A3XS",
)  # fmt: skip
Look = Callable[[Iterable[str]], None]
RANDOM = np.random.default_rng(0)
CODES = ["".join(RANDOM.choice(list("ACGT"), 16)) for _ in range(20)]
GENES = [f"GENE{n}" for n in range(30)]


def write_tenx(path: Path, barcodes: list[str]) -> None:
    """As Cell Ranger does, with what a laboratory may have put beside it."""
    counts = RANDOM.poisson(0.5, (20, 30))
    rows, columns = np.nonzero(counts)
    with h5py.File(path, "w") as file:
        file.attrs.update(
            {"filetype": "matrix", "version": 2, "original_gem_groups": [1], "operator": "Barnaby Vandermeer"}
        )
        file.attrs["library_ids"] = np.array([b"MRN55001_Zebedee"])
        file.attrs["chemistry_description"] = "by Clementine on 2019-03-14"
        file["matrix/barcodes"] = np.array(barcodes, "S")
        file["matrix/data"] = counts[rows, columns].astype(np.int32)
        file["matrix/indices"], file["matrix/shape"] = columns.astype(np.int64), np.array([30, 20], np.int32)
        file["matrix/indptr"] = np.searchsorted(rows, np.arange(21)).astype(np.int64)
        for name, values in (
            ("name", GENES),
            ("id", [f"ENSG{n:011d}" for n in range(30)]),
            ("genome", ["GRCh38"] * 30),
        ):
            file[f"matrix/features/{name}"] = np.array(values, "S")
        file["matrix/features/feature_type"] = np.array([b"Gene Expression"] * 30)
        file["matrix/features/notes"] = np.array([b"Dr. Quillon, Saint Elsewhere"] * 30)
        file["matrix/data"].attrs["path"] = "/home/barnaby/S19-88123"
        file["Ottoline Thistlewood"] = np.arange(3)
        file["soft"] = h5py.SoftLink("/matrix/Zebedee")
    with path.open("ab") as raw:
        raw.write(b"Zebedee Quillon, zq@example.org")


def same_bits(old: Path, new: Path, places: Iterable[str]) -> None:
    with h5py.File(old) as before, h5py.File(new) as after:
        for place in places:
            one, other = (file[place] for file in (before, after))
            assert isinstance(one, h5py.Dataset)
            assert isinstance(other, h5py.Dataset)
            assert (one.dtype, one.shape) == (other.dtype, other.shape), place
            assert one[()].tobytes() == other[()].tobytes(), place


@pytest.mark.parametrize("named", [False, True])
def test_tenx(place: Path, clean: Callable[..., Report], none_left: Look, named: bool) -> None:
    path = place / "in/MRN55001_filtered_feature_bc_matrix.h5"
    write_tenx(path, [f"MRN55001_Zebedee_{code}-1" if named else f"{code}-1" for code in CODES])
    report = clean()
    none_left(PLANTED)
    (after,) = (place / "out").glob("*.h5")
    same_bits(path, after, [f"matrix/{n}" for n in ("data", "indices", "indptr", "shape")])
    old, new, key = only(path), only(after), open_key(place / "key")
    assert (old.patient, new.patient) == ("MRN55001", key.pseudonym("MRN55001"))
    assert {k: v for k, v in old.attributes.items() if k != "stem"} == {
        k: v for k, v in new.attributes.items() if k != "stem"
    }
    assert (load(path).array == load(after).array).all()
    with h5py.File(after) as file:
        barcodes: Any = file["matrix/barcodes"]
        kept = [name.decode() for name in barcodes[()]]
        assert [name.rpartition("_")[2] for name in kept] == [f"{code}-1" for code in CODES]
        assert (len({name.partition("_")[0] for name in kept}) == 1) is named
        assert np.asarray(file.attrs["library_ids"]).tolist() == [key.pseudonym("MRN55001_Zebedee").encode()]
    assert report.kinds == {"10x": 1}


@pytest.mark.parametrize("barcode", [True, False])
def test_features_of_tiles(place: Path, clean: Callable[..., Report], none_left: Look, barcode: bool) -> None:
    name = "TCGA-A2-A3XS-01Z-00-DX1.Zebedee.h5" if barcode else "MRN55001_Zebedee.h5"
    path = place / "in/trident/20x_512px_0px_overlap/features_conch_v15" / name
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        file["features"] = RANDOM.normal(size=(1, 12, 6)).astype(np.float16)
        file["coords"] = np.stack(np.meshgrid(np.arange(4), np.arange(3)), -1).reshape(-1, 2) * 1024
        file["annotator"] = np.array([b"Vandermeer"])
        about = {"patch_size_level0": 1024, "level0_magnification": 40, "level0_mpp": 0.25, "name": "MRN55001 Zebedee"}
        file["coords"].attrs.update(about | {"savetodir": "/home/barnaby/S19-88123"})
        file["features"].attrs.update({"encoder": "by Clementine", "MRN55001": 1})
        file.attrs["slide"] = "Ottoline Thistlewood 2019-03-14"
    report = clean()
    none_left(PLANTED)
    (after,) = (place / "out").rglob("*.h5")
    same_bits(path, after, ["features", "coords"])
    old, new = only(path, place / "in"), only(after, place / "out")
    key = open_key(place / "key")
    assert (old.patient, new.patient) == (who := "TCGA-A2-A3XS" if barcode else "MRN55001", key.pseudonym(who))
    assert {k: v for k, v in old.attributes.items() if k != "stem"} == {
        k: v for k, v in new.attributes.items() if k != "stem"
    }
    assert report.kinds == {"features of tiles": 1}


def test_tiles_and_their_slide_keep_one_stem(place: Path, clean: Callable[..., Report]) -> None:
    """What links a slide's features with its mask and its table: the name."""
    with h5py.File(place / "in/MRN55001_Zebedee.h5", "w") as file:
        file["features"], file["coords"] = np.ones((2, 3)), np.array([[0, 0], [9, 0]])
    (place / "in/slides.csv").write_text("patient_id,slide_file\nMRN55001,MRN55001_Zebedee.h5\n")
    clean()
    (after,) = (place / "out").glob("*.h5")
    table = next(p for p in (place / "out").iterdir() if p.suffix == ".csv").read_text()
    assert after.name in table


def test_what_is_neither_is_set_aside_in_its_own_words(
    place: Path, clean: Callable[..., Report], none_left: Look
) -> None:
    with h5py.File(place / "in/a.h5", "w") as file:
        file["Zebedee"] = np.arange(3)
    with h5py.File(place / "in/b.h5", "w") as file:
        file["features"] = np.ones((2, 3))
        file["coords"] = h5py.SoftLink("/features")
    found = {a.file[0]: a.found for a in clean(aside=True).aside}
    assert found["a"] == "an HDF5 file that is neither AnnData 0.7 or newer nor a 10x matrix"
    assert found["b"] == "an HDF5 file with links to elsewhere"
    none_left(["Zebedee"])
