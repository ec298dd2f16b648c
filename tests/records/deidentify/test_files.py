"""NIfTI, pictures, signals: what is said about a person goes, what was measured stays bit for bit."""

from __future__ import annotations

import gzip
from datetime import date, time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import wfdb
from nibabel.nifti1 import Nifti1Extension
from PIL import Image, PngImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from polyclinic.records.deidentify import deidentify

SECRETS = (b"ZEBEDEE", b"MRN8847213", b"2019-03-14", b"Elsewhere")


def clean(place: Path) -> Path:
    report = deidentify(place / "in", place / "out", place / "key")
    assert len(report.files) == 1, report.aside
    return place / "out" / report.files[0]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


def none_left(path: Path) -> None:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for secret in SECRETS:
        assert secret not in data
        assert secret.lower() not in path.name.lower().encode()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_nifti(place: Path, kind: Any, ending: str) -> None:
    voxels = np.random.default_rng(1).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    image = kind(voxels, np.diag([1.0, 2.0, 3.0, 1.0]))
    image.header["descrip"], image.header["aux_file"] = b"ZEBEDEE 2019-03-14", b"MRN8847213"
    image.header["intent_name"] = b"Elsewhere"
    if kind is nibabel.Nifti1Image:
        image.header["db_name"] = b"ZEBEDEE"
    image.header.extensions.append(Nifti1Extension("comment", b"ZEBEDEE MRN8847213 at Elsewhere"))
    nibabel.save(image, place / f"in/ZEBEDEE_MRN8847213_t1{ending}")
    if ending == ".nii":
        with (place / f"in/ZEBEDEE_MRN8847213_t1{ending}").open("ab") as file:
            file.write(b"ZEBEDEE behind the voxels")
    path = clean(place)
    none_left(path)
    after: Any = nibabel.load(path)
    assert (np.asarray(after.dataobj) == voxels).all()
    assert (after.affine == image.affine).all()
    assert after.header.get_data_dtype() == np.int16
    assert len(after.header.extensions) == 0


def test_png(place: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (9, 8, 3)).astype(np.uint8)
    told = PngImagePlugin.PngInfo()
    told.add_text("Author", "ZEBEDEE")
    told.add_itxt("Comment", "MRN8847213", zip=True)
    exif = Image.Exif()
    exif[0x010E] = "2019-03-14 Elsewhere"
    Image.fromarray(pixels).save(place / "in/ZEBEDEE.png", pnginfo=told, exif=exif)
    with (place / "in/ZEBEDEE.png").open("ab") as file:
        file.write(b"ZEBEDEE")
    path = clean(place)
    none_left(path)
    image = Image.open(path)
    assert (np.asarray(image) == pixels).all()
    assert image.info == {}


@pytest.mark.parametrize("quality", [50, 95])
def test_a_jpeg_that_ends_where_its_picture_ends(place: Path, quality: int) -> None:
    pixels = np.random.default_rng(5).integers(0, 255, (40, 50), dtype=np.uint8)
    Image.fromarray(pixels).save(place / "in/a.jpg", quality=quality)
    assert clean(place).read_bytes().endswith(b"\xff\xd9")
    assert (
        np.asarray(Image.open(place / "in/a.jpg")) == np.asarray(Image.open(next((place / "out").rglob("*.jpg"))))
    ).all()


def test_jpeg(place: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (33, 40, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x010E], exif[0x0132] = "ZEBEDEE Elsewhere", "2019-03-14"
    Image.fromarray(pixels).save(place / "in/a.jpg", exif=exif, comment=b"MRN8847213", dpi=(72, 72))
    with (place / "in/a.jpg").open("ab") as file:
        file.write(b"ZEBEDEE")
    before = np.asarray(Image.open(place / "in/a.jpg"))
    path = clean(place)
    none_left(path)
    image = Image.open(path)
    assert (np.asarray(image) == before).all()
    assert not image.getexif()
    assert "comment" not in image.info


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_tiff(place: Path, compression: str) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (33, 40, 3)).astype(np.uint8)
    tags = ImageFileDirectory_v2()
    tags[270], tags[315], tags[306], tags[700], tags[65000] = (
        "ZEBEDEE at Elsewhere",
        "MRN8847213",
        "2019-03-14",
        b"<x>ZEBEDEE</x>",
        "ZEBEDEE",
    )
    Image.fromarray(pixels).save(place / "in/a.tif", tiffinfo=tags, compression=compression)
    before = np.asarray(Image.open(place / "in/a.tif"))
    path = clean(place)
    none_left(path)
    assert (np.asarray(Image.open(path)) == before).all()


def test_wfdb(place: Path) -> None:
    samples = np.random.default_rng(4).integers(-900, 900, (500, 2))
    wfdb.wrsamp(
        "zebedee77",
        fs=250,
        units=["mV", "mV"],
        sig_name=["II", "V5"],
        d_signal=samples,
        fmt=["16", "16"],
        adc_gain=[200.0, 200.0],
        baseline=[0, 0],
        comments=["patient: MRN8847213", "<age>: 93  <sex>: F", "ZEBEDEE seen at Elsewhere on 2019-03-14"],
        write_dir=str(place / "in"),
        base_time=time(10, 11, 12),
        base_date=date(2019, 3, 14),
    )
    wfdb.wrann(
        "zebedee77",
        "atr",
        np.array([10, 200]),
        symbol=["N", "V"],
        aux_note=["(N", "(AFIB"],
        write_dir=str(place / "in"),
    )
    report = deidentify(place / "in", place / "out", place / "key")
    assert len(report.files) == 3
    for path in (place / "out").glob("P*"):
        none_left(path)
        assert b"14/03/2019" not in path.read_bytes()
    header = next((place / "out").glob("*.hea"))
    after: Any = wfdb.rdrecord(str(header.with_suffix("")), physical=False)
    assert (after.d_signal == samples).all()
    assert after.base_time.isoformat() == "10:11:12"
    assert 1 <= abs((after.base_date - date(2019, 3, 14)).days) <= 365
    assert after.comments[1] == "<age>: 90  <sex>: F"
    assert after.comments[0].startswith("patient: P")
    beats = wfdb.rdann(str(header.with_suffix("")), "atr")
    assert list(beats.sample) == [10, 200]


def test_annotations_in_words_are_set_aside(place: Path) -> None:
    wfdb.wrsamp(
        "r1",
        fs=250,
        units=["mV"],
        sig_name=["II"],
        d_signal=np.zeros((500, 1), int),
        fmt=["16"],
        adc_gain=[200.0],
        baseline=[0],
        write_dir=str(place / "in"),
    )
    wfdb.wrann("r1", "atr", np.array([10]), symbol=["N"], aux_note=["seen by Dr Zebedee"], write_dir=str(place / "in"))
    report = deidentify(place / "in", place / "out", place / "key")
    assert [a.found for a in report.aside] == ["annotations with words of their own"]
