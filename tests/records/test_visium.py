from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from polyclinic import records
from polyclinic.cohort import ingest
from polyclinic.harmonise import Fingerprint, SlideStandard, harmonise
from polyclinic.schema import Modality, Record, Rejected


def section(folder: Path, hires: bool = True, scale: object = None) -> None:
    folder.mkdir(parents=True)
    tissue = np.full((200, 300, 3), 240, np.uint8)
    tissue[50:150, 60:260] = (220, 120, 180)
    Image.fromarray(tissue).save(folder / "tissue_lowres_image.png")
    Image.fromarray(tissue.repeat(3, 0).repeat(3, 1) if hires else np.zeros_like(tissue)).save(
        folder / "tissue_hires_image.png"
    )
    factors = {"spot_diameter_fullres": 100.0, "tissue_hires_scalef": 0.15, "tissue_lowres_scalef": 0.05}
    (folder / "scalefactors_json.json").write_text(json.dumps(factors if scale is None else scale))


def read(root: Path) -> tuple[list[Record], list[str]]:
    found = [one for path in sorted(root.rglob("*.png")) for one in records.read(path, root)]
    return [one for one in found if isinstance(one, Record)], [one.found for one in found if isinstance(one, Rejected)]


def test_the_larger_picture_of_a_section_is_its_slide(tmp_path: Path) -> None:
    section(tmp_path / "heart/outs/spatial")
    (record,), reasons = read(tmp_path)
    assert (record.modality, record.patient) == (Modality.SLIDE, "heart")
    assert record.uri.endswith("tissue_hires_image.png")
    assert record.attributes["mpp"] == pytest.approx(65 / 15)
    assert reasons == ["a smaller copy of tissue_hires_image.png"]
    payload = harmonise(records.load(record, tmp_path), record, SlideStandard(mpp=8.0, size=32), Fingerprint())
    assert len(payload.array) > 10
    assert not payload.nominal


def test_an_empty_picture_gives_way_to_the_smaller_one(tmp_path: Path) -> None:
    section(tmp_path / "P3/spatial", hires=False)
    (record,), reasons = read(tmp_path)
    assert (record.patient, record.attributes["mpp"]) == ("P3", pytest.approx(65 / 5))
    assert reasons == ["a tissue image of one colour"]


def test_the_scale_of_a_real_section_is_that_of_its_spots(shared_data: Path, tmp_path: Path) -> None:
    """Neighbouring spots lie 100 µm apart: an independent ruler on the same slide."""
    shutil.copytree(shared_data / "visium/1.0.0/spatial", tmp_path / "1.0.0/spatial")
    (record,), _ = read(tmp_path)
    spots = np.genfromtxt(tmp_path / "1.0.0/spatial/tissue_positions_list.csv", delimiter=",", usecols=(2, 3, 4, 5))
    row = spots[spots[:, 0] == 40]
    row = row[np.argsort(row[:, 1])]
    apart = np.linalg.norm(np.diff(row[:, 2:], axis=0), axis=1).mean() * 0.045004502
    assert record.attributes["mpp"] == pytest.approx(100 / apart, rel=0.01)
    assert record.patient == "1.0.0"


@pytest.mark.parametrize(
    "scale", [{}, [], {"spot_diameter_fullres": 0, "tissue_hires_scalef": 1}, {"spot_diameter_fullres": "x"}]
)
def test_a_scale_that_is_none_is_none(tmp_path: Path, scale: object) -> None:
    section(tmp_path / "a/spatial", scale=scale)
    (record,), _ = read(tmp_path)
    assert record.attributes["mpp"] is None


def test_a_picture_of_that_name_alone_is_a_picture(tmp_path: Path) -> None:
    section(tmp_path / "spatial")
    (tmp_path / "spatial/scalefactors_json.json").unlink()
    found, _ = read(tmp_path)
    assert {record.modality for record in found} == {Modality.IMAGE}


def test_what_lies_beside_a_picture_is_read_with_it(shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in/1.0.0/spatial"
    shutil.copytree(shared_data / "visium/1.0.0/spatial", folder)
    on_tissue = np.genfromtxt(folder / "tissue_positions_list.csv", delimiter=",", usecols=(1,))
    cohort = ingest(tmp_path / "in", tmp_path / "cohort")
    (record,) = cohort.records()
    assert (record.attributes["spots"], record.attributes["spots_in_tissue"]) == (4992, int(on_tissue.sum()))
    assert {PurePosixPath(r.uri).name: r.found for r in cohort.rejected()} == {
        "scalefactors_json.json": "the scale of a Visium section's pictures",
        "tissue_positions_list.csv": "the places of a Visium section's spots",
        "tissue_hires_image.png": "a tissue image of one colour",
    }
    factors = json.loads((folder / "scalefactors_json.json").read_text())
    (folder / "scalefactors_json.json").write_text(
        json.dumps(factors | {"spot_diameter_fullres": factors["spot_diameter_fullres"] / 2})
    )
    (again,) = ingest(tmp_path / "in", tmp_path / "cohort").records()  # the picture is the same, its scale is not
    assert again.attributes["mpp"] == pytest.approx(2 * float(str(record.attributes["mpp"])))


@pytest.mark.parametrize(
    "words", ["", "barcode,in_tissue,array_row,array_col,pxl_row,pxl_col\na,1,0,0,5,5\nb,0,1,1,9,9\n", '"', "\xff"]
)
def test_spots_are_counted_where_their_table_can_be_read(tmp_path: Path, words: str) -> None:
    section(tmp_path / "a/spatial")
    (tmp_path / "a/spatial/tissue_positions.csv").write_bytes(words.encode("latin-1"))
    (record,), _ = read(tmp_path)
    counted = {k: v for k, v in record.attributes.items() if k.startswith("spots")}
    assert counted in ({"spots": 2, "spots_in_tissue": 1}, {"spots": 0, "spots_in_tissue": 0}, {})
    assert (counted.get("spots") == 2) == ("b,0" in words)
