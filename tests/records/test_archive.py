from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from polyclinic import records
from polyclinic.cohort import ingest
from polyclinic.records import RecordError
from polyclinic.schema import Modality, Record, Rejected


def packed(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def contents(hospital: Path) -> dict[str, bytes]:
    """A signal with its header, an image, a note and a table, and what a Macintosh leaves."""
    files = {f"heart/{n}": hospital / "cardiology" / n for n in ("s0010_re.hea", "s0010_re.dat")}
    files |= {
        f"mri/{p.parent.name}/{p.name}": p for p in (hospital / "neurology/hippocampus").rglob("hippocampus_001.nii.gz")
    }
    found = {name: path.read_bytes() for name, path in files.items()}
    return found | {"labs.csv": b"patient,crp\nA,3\nB,4\n", "__MACOSX/._labs.csv": b"litter", "broken/x.nii.gz": b"no"}


@pytest.mark.parametrize("ending", ["zip", "tar.gz", "tgz"])
def test_an_archive_is_the_folder_that_it_is(ending: str, contents: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    packed(tmp_path / f"source/export.{ending}", contents)
    plain = ingest(folder, tmp_path / "a")
    ours = ingest(tmp_path / "source", tmp_path / "b")
    inside = lambda r: r.uri.removeprefix(f"export.{ending}#entry=")
    assert [(r.id, r.patient, r.kind, inside(r)) for r in ours.records()] == [
        (r.id, r.patient, r.kind, r.uri) for r in plain.records()
    ]
    assert {inside(r): r.found for r in ours.rejected()} == {r.uri: r.found for r in plain.rejected()}
    assert len(ours.rejected()) == 1
    mask = next(r for r in ours.records() if r.attributes.get("mask"))
    assert mask.attributes["mask_of"] in {r.id for r in ours.records()}
    for theirs, record in zip(plain.records(), ours.records(), strict=True):
        one, other = plain.load(theirs), ours.load(record)
        assert np.array_equal(one.array, other.array)
        assert one.names == other.names


def test_a_packed_table_is_still_a_table(tmp_path: Path) -> None:
    packed(tmp_path / "labs.csv.zip", {"labs.csv": b"patient,crp\nA,3\n"})
    (found,) = records.read(tmp_path / "labs.csv.zip")
    assert isinstance(found, Record)
    assert found.uri == "labs.csv.zip#row=1"


def test_a_series_in_an_archive_is_one_volume(tmp_path: Path, shared_data: Path) -> None:
    slices = sorted((shared_data / "ct-organs/example_ct_dicom").glob("*"))[:4]
    packed(tmp_path / "s/ct.zip", {f"study/{p.name}": p.read_bytes() for p in slices})
    (record,) = ingest(tmp_path / "s", tmp_path / "c").records()
    assert record.modality is Modality.VOLUME
    shutil.copytree(
        shared_data / "ct-organs/example_ct_dicom",
        tmp_path / "p",
        ignore=lambda _, n: set(n) - {s.name for s in slices},
    )
    (plain,) = ingest(tmp_path / "p", tmp_path / "d").records()
    assert plain.id == record.id
    assert np.array_equal(records.load(record, tmp_path / "s").array, records.load(plain, tmp_path / "p").array)


def rejected(path: Path) -> list[Rejected]:
    return [item for item in records.read(path) if isinstance(item, Rejected)]


@pytest.mark.parametrize("name", ["../out.csv", "/etc/out.csv", "a/../../out.csv", "..\\out.csv", "C:/out.csv"])
@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
def test_a_member_that_climbs_out_is_set_aside_and_the_rest_is_read(name: str, ending: str, tmp_path: Path) -> None:
    path = packed(tmp_path / f"deep/er/x.{ending}", {name: b"patient,a\nA,1\n", "in.csv": b"patient,a\nB,1\n"})
    found = list(records.read(path))
    assert [r.patient for r in found if isinstance(r, Record)] == ["B"]
    assert [r.found for r in rejected(path)] == ["a member whose name leads out of the archive"]
    assert not list(tmp_path.rglob("out.csv"))


def test_a_bomb_stops_before_it_fills_the_disk(tmp_path: Path) -> None:
    path = packed(tmp_path / "bomb.zip", {f"{i}.bin": bytes(40_000_000) for i in range(8)})
    assert path.stat().st_size < 400_000
    (reason,) = rejected(path)
    assert "unpacks to over" in reason.found


def test_an_archive_in_an_archive_is_not_opened(tmp_path: Path) -> None:
    inner = packed(tmp_path / "inner.zip", {"a.csv": b"patient,a\nA,1\n"}).read_bytes()
    path = packed(tmp_path / "outer.zip", {"inner.zip": inner, "b.csv": b"patient,a\nB,1\n"})
    found = list(records.read(path))
    assert [type(item) for item in found] == [Rejected, Record]


def test_links_and_locked_members_are_set_aside(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "l.tar", "w") as archive:
        link = tarfile.TarInfo("passwd.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert [r.found for r in rejected(tmp_path / "l.tar")] == ["a link in an archive"]
    whole = bytearray(packed(tmp_path / "k.zip", {"a.csv": b"patient,a\nA,1\n"}).read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(mark) + flags] |= 1
    (tmp_path / "k.zip").write_bytes(whole)
    assert [r.found for r in rejected(tmp_path / "k.zip")] == ["a member locked with a password"]


@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
def test_a_cut_archive_says_so(ending: str, contents: dict[str, bytes], tmp_path: Path) -> None:
    path = packed(tmp_path / f"x.{ending}", contents)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert rejected(path)
    with pytest.raises(RecordError):
        records.load(Record("0", "A", None, Modality.TABLE, "table labs", f"x.{ending}#entry=labs.csv#row=1"), tmp_path)
