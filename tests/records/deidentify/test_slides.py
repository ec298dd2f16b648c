"""Slides: label, macro and words go; every tile's pixels, the levels and the scale stay."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from polyclinic.records import slide
from polyclinic.records.deidentify import Report, open_key
from polyclinic.records.deidentify.slides import _codestream
from reading import only

PLANTED = (
    "Zebedee", "Quillon", "Ottoline", "Barnaby", "Vandermeer", "Thistlewood", "Elsewhere", "MRN55001", "TCGA-A2-A3XS", "2019:03:14",
    "03/14/19", "S19-88123", "SN77120", "C:\\scans", "zq@example.org", "10:15:30", "Clementine",
)  # fmt: skip
DESCRIPTION = (
    "Aperio Image Library v11.2.1 \r\n1536x2048 [0,0 1536x2048] (256x256) JPEG/RGB Q=70"
    "|AppMag = 20|MPP = 0.4990"
    "|Filename = S19-88123 Zebedee|User = Vandermeer|Date = 03/14/19|Time = 10:15:30"
    "|ScanScope ID = SN77120|Title = C:\\scans|Patient = MRN55001"
)
Look = Callable[[Iterable[str]], None]


def writers() -> Any:
    """The writers of slides of `tests/records/test_slide.py`."""
    spec = importlib.util.spec_from_file_location("slide_writers", Path(__file__).parents[1] / "test_slide.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["slide_writers"] = module
    spec.loader.exec_module(module)
    return module


def commented(data: bytes, text: str) -> bytes:
    """A JPEG with a comment and an EXIF segment behind its start, and words behind its end."""
    said = text.encode()
    size = (len(said) + 2).to_bytes(2, "big")
    return data[:2] + b"\xff\xfe" + size + said + b"\xff\xe1" + size + said + data[2:] + said


def levels(path: Path) -> list[Any]:
    with slide.opened(str(path)) as found:
        return [level.read(0, 0, level.width, level.height) for level in found.levels]


def write_svs(path: Path) -> None:
    made = writers()
    array = made.picture()
    with tifffile.TiffFile(_plain_svs(path, array, made)) as file, tifffile.TiffWriter(path) as writer:
        pages: list[Any] = list(file.pages)
        for page in pages:
            described = DESCRIPTION if page.index == 0 else f"Aperio Zebedee {page.index}"
            common: dict[str, Any] = {
                "metadata": None,
                "photometric": page.photometric,
                "description": described,
                "datetime": "2019:03:14 10:15:30",
            }
            extra = [
                (315, "s", 0, "Barnaby", True),
                (316, "s", 0, "SN77120", True),
                (65000, "s", 0, "Ottoline Quillon", True),
            ]
            if page.is_tiled:
                tiles = []
                for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
                    file.filehandle.seek(start)
                    tiles.append(commented(file.filehandle.read(length), "Zebedee Thistlewood"))
                writer.write(
                    iter(tiles), shape=page.shape, dtype=page.dtype, tile=(256, 256), compression=page.compression, software="Elsewhere",
                    jpegtables=page.jpegtables, iccprofile=b"Clementine zq@example.org" * 9, extratags=extra, **common,
                )  # fmt: skip
            else:
                writer.write(
                    page.asarray(), rowsperstrip=16, extratags=extra, subfiletype=9 if page.index > 2 else 0, **common
                )
    with path.open("ab") as file:
        file.write(b"Zebedee behind the end")


def _plain_svs(path: Path, array: np.ndarray, made: Any) -> Path:
    plain = path.with_name("plain.svs")
    made.write_svs(plain, array)
    return plain


@pytest.mark.parametrize("name", ["TCGA-A2-A3XS-01Z-00-DX1.Zebedee.svs", "MRN55001_Zebedee.svs"])
def test_svs(place: Path, clean: Callable[..., Report], none_left: Look, name: str) -> None:
    path = place / "in" / name
    write_svs(path)
    (place / "in/plain.svs").unlink()
    before = levels(path)
    assert len(before) == 2
    report = clean()
    none_left(PLANTED)
    (after,) = (place / "out").glob("*.svs")
    for old, new in zip(before, levels(after), strict=True):
        assert (old == new).all()
    old, new = only(path), only(after)
    for told in ("mpp", "width", "height", "levels", "vendor", "magnification"):
        assert new.attributes.get(told) == old.attributes.get(told), told
    assert new.patient == open_key(place / "key").pseudonym("TCGA-A2-A3XS" if "TCGA" in name else "MRN55001")
    with tifffile.TiffFile(after) as file:
        assert len(file.pages) == 2
    assert report.kinds == {"slide": 1}


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "jpeg2000"])
@pytest.mark.parametrize("sub", [False, True])
def test_pyramids(
    place: Path, clean: Callable[..., Report], none_left: Look, compression: str | None, sub: bool
) -> None:
    made = writers()
    array = made.picture(700, 600)
    told = '<OME Creator="Zebedee"><Image Name="MRN55001"><AcquisitionDate>2019-03-14T10:15:30</AcquisitionDate>'
    told += '<Pixels PhysicalSizeX="0.25" PhysicalSizeY="0.5"/></Image></OME>'
    path = place / "in/slide_Zebedee.ome.tiff"
    options = {"predictor": True} if compression in ("zlib", "lzw") else {}
    made.write_pyramid(
        path,
        array,
        sub=sub,
        compression=compression,
        description=told,
        software="Barnaby",
        datetime="2019:03:14 10:15:30",
        **options,
    )
    before = levels(path)
    clean()
    none_left([*PLANTED, "2019-03-14"])
    (after,) = (place / "out").glob("*.tiff")
    assert len(before) == 3
    for old, new in zip(before, levels(after), strict=True):
        assert (old == new).all()
    assert only(after).attributes["mpp"] == pytest.approx(only(path).attributes["mpp"], rel=1e-6)


def test_grey_and_deep_pyramids(place: Path, clean: Callable[..., Report]) -> None:
    made = writers()
    array = made.picture(700, 600)[..., 0].astype(np.uint16) * 200
    path = place / "in/a.tiff"
    made.write_pyramid(path, array, compression="zlib")
    before = levels(path)
    clean()
    (after,) = (place / "out").glob("*.tiff")
    assert all((old == new).all() and old.dtype == new.dtype for old, new in zip(before, levels(after), strict=True))


def test_comments_in_codestreams() -> None:
    """A codestream of openjpeg's names its maker; another comment may name anybody."""
    import imagecodecs

    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    data = bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True))
    said = b"\xff\x64" + (4 + 7).to_bytes(2, "big") + b"\x00\x01Zebedee"
    at = data.index(b"\xff\x52")
    new = _codestream(data[:at] + said + data[at:])
    assert b"Zebedee" not in new
    assert b"\xff\x64" not in new[: new.index(b"\xff\x90")]
    assert (imagecodecs.jpeg2k_decode(new) == pixels).all()


OWN: dict[str, dict[str, Any]] = {
    "NDPI": {"extratags": [(65420, "I", 1, 1, True), (271, "s", 0, "Hamamatsu Zebedee", True)]},
    "SCN": {
        "description": '<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><barcode>Zebedee</barcode></scn>'
    },
    "BIF": {"extratags": [(700, "s", 0, "<iScan>Zebedee</iScan>", True)], "software": "ScanOutputManager 1.1"},
    "Philips": {"software": "Philips DP v1.0", "description": "<DataObject>Zebedee</DataObject>"},
}


@pytest.mark.parametrize("kind", OWN)
def test_a_scanners_own_format_is_set_aside_and_says_why(
    place: Path, clean: Callable[..., Report], none_left: Look, kind: str
) -> None:
    """By what is in it, whatever it is called, and by its name."""
    made = writers()
    for name in (f"a.{kind.lower()}", "b.tiff") if kind != "Philips" else ("b.tiff",):
        made.write_pyramid(place / "in" / name, made.picture(700, 600), **OWN[kind])
    report = clean(aside=True)
    assert report.files == []
    assert all("without label" in a.remedy for a in report.aside)
    found = {a.found.split(",")[0].split(" ", 1)[1] for a in report.aside}
    assert found == {f"{kind} slide"}
    none_left(["Zebedee"])


def test_mrxs_and_czi_are_set_aside_with_all_that_is_theirs(
    place: Path, clean: Callable[..., Report], none_left: Look
) -> None:
    (place / "in/MRN55001").mkdir()
    (place / "in/MRN55001.mrxs").write_bytes(b"\xff\xd8\xff Zebedee")
    (place / "in/MRN55001/Slidedat.ini").write_text("SLIDE_NAME = Zebedee")
    (place / "in/MRN55001/Data0001.dat").write_bytes(b"Zebedee")
    (place / "in/a.czi").write_bytes(b"ZISRAWFILE" + bytes(100) + b"Zebedee")
    report = clean(aside=True)
    assert report.files == []
    assert sorted(a.found.split(",")[0] for a in report.aside) == [
        "a CZI slide", "a data file of an MRXS slide", "a data file of an MRXS slide", "an MRXS slide"
    ]  # fmt: skip
    none_left(["Zebedee", "MRN55001"])


def test_a_slide_that_was_cut_short_is_set_aside(place: Path, clean: Callable[..., Report]) -> None:
    made = writers()
    made.write_pyramid(place / "in/b.tiff", made.picture(700, 600))
    whole = (place / "in/b.tiff").read_bytes()
    (place / "in/b.tiff").write_bytes(whole[: len(whole) * 2 // 3])
    report = clean(aside=True)
    assert report.files == []
    assert len(report.aside) == 1
