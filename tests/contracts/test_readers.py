"""What every reader promises. One that joins `records.READERS` is tested by it, on files of the embedded hospital."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from types import ModuleType

import anndata
import av
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyedflib
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_typestore

from polyclinic import records
from polyclinic.records import READERS, RecordError, slide_features
from polyclinic.schema import Events, Modality, Payload, Record, Rejected

WRITTEN = tempfile.TemporaryDirectory()
HOSPITAL = Path(__file__).parents[2] / "examples/hospital/data"
NAME = lambda reader: reader.__name__.rsplit(".", 1)[1]
AXES = {
    Modality.IMAGE: 3,
    Modality.VOLUME: 4,
    Modality.SLIDE: 3,
    Modality.VIDEO: 4,
    Modality.SIGNAL: 2,
    Modality.OMICS: 1,
    Modality.TABLE: 2,
    Modality.TEXT: 1,
    Modality.KINEMATICS: 2,
}
every_reader = pytest.mark.parametrize("reader", READERS, ids=NAME)
quick = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@cache
def written() -> Path:
    """Files of formats that the hospital has none of, by their own libraries."""
    folder = Path(WRITTEN.name)
    (folder / "oru.hl7").write_text(
        "MSH|^~\\&|L|H|E|H|20200101||ORU^R01|1|P|2.5\rPID|1||P1^^^H^MR\rOBR|1|||CT^CT chest^L|||20200101\r"
        "OBX|1|NM|2160-0^Creatinine^LN||1.2|mg/dL|||||F\rOBX|2|TX|CT^CT^L||No embolism.||||||F\r"
    )
    (folder / "note.xml").write_text(
        '<ClinicalDocument xmlns="urn:hl7-org:v3"><recordTarget><patientRole><id root="1" extension="P1"/></patientRole></recordTarget>'
        "<component><structuredBody><component><section><text>No fever.</text></section></component></structuredBody></component>"
        "</ClinicalDocument>"
    )
    (folder / "death.csv").write_text("person_id,death_date\n1,2020-05-06\n")
    (folder / "values.csv").write_text("patient_id,time,test,value,unit\nP1,2020-01-01,glucose,5.5,mmol/l\n")
    pq.write_table(
        pa.table({"subject_id": [1], "time": [datetime(2020, 1, 1)], "code": ["a"], "numeric_value": [1.0]}),
        folder / "0.parquet",
    )
    writer = pyedflib.EdfWriter(str(folder / "night.edf"), 2)
    lead = {
        "dimension": "mV",
        "sample_frequency": 100,
        "physical_max": 5.0,
        "physical_min": -5.0,
        "digital_max": 32767,
        "digital_min": -32768,
    }
    writer.setSignalHeaders([{"label": name, "transducer": "", "prefilter": "", **lead} for name in ("I", "II")])
    time = np.arange(300) / 100
    writer.writeSamples([np.sin(2 * np.pi * time), np.cos(2 * np.pi * time)])
    writer.close()
    write_slide(folder / "pyramid.tif")
    tifffile.imwrite(folder / "deep.tif", np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
    write_video(folder / "scope.mp4")
    write_motion(folder / "arm.csv", folder / "arm.bag")
    pq.write_table(pa.table({"patient": ["P1", "P2"], "age": [61.5, None]}), folder / "visits.parquet")
    workbook(folder / "visits.xlsx")
    (folder / "run_matrix.mtx").write_text("%%MatrixMarket matrix coordinate integer general\n2 2 2\n1 1 5\n2 2 1\n")
    (folder / "run_features.tsv").write_text("E1\tTP53\nE2\tKRAS\n")
    (folder / "run_barcodes.tsv").write_text("A-1\nC-1\n")
    box = (
        "<object><name>lesion</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>5</xmax><ymax>7</ymax></bndbox></object>"
    )
    size = "<size><width>10</width><height>9</height><depth>1</depth></size>"
    (folder / "scan.xml").write_text(f"<annotation><filename>scan.png</filename>{size}{box}</annotation>")
    asked = {
        "QUESTION": "Does it?",
        "CONTEXTS": ["We looked."],
        "LABELS": ["METHODS"],
        "LONG_ANSWER": "It does.",
        "final_decision": "yes",
    }
    (folder / "asked.json").write_text(json.dumps({"1": asked, "2": asked | {"final_decision": "no"}}))
    columns = "\t".join(["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", "P1", "P2"])
    calls = "1\t9\t.\tA\tG\t.\tPASS\t.\tGT\t0/1\t1/1\n"
    (folder / "calls.vcf").write_text(f"##fileformat=VCFv4.2\n{columns}\n{calls}")
    mutation = "TP53\tMissense_Mutation\tTCGA-02-0001-01C"
    (folder / "blca.maf").write_text(f"Hugo_Symbol\tVariant_Classification\tTumor_Sample_Barcode\n{mutation}\n")
    (folder / "a.gct").write_text("#1.2\n2\t1\nName\tDescription\tP1\nTP53\tx\t5\nKRAS\ty\t2.5\n")
    counts, obs = np.eye(2, 5, dtype=np.float32), pd.DataFrame({"patient": ["P1", "P2"]}, index=pd.Index(["a", "b"]))
    anndata.AnnData(counts, obs).write_h5ad(folder / "bulk.h5ad")
    with h5py.File(folder / "S1.h5", "w") as file:
        file["features"], file["coords"] = np.eye(3, 4, dtype=np.float32), np.array([[0, 0], [512, 0], [0, 512]])
    return folder


def write_slide(path: Path) -> None:
    """A pyramid of two levels."""
    grey = np.add.outer(np.arange(192), np.arange(256)).astype(np.uint8)
    with tifffile.TiffWriter(path) as file:
        for by in (1, 2):
            level = np.ascontiguousarray(np.stack([grey[::by, ::by]] * 3, axis=2))
            file.write(level, tile=(64, 64), photometric="rgb", compression="jpeg", subfiletype=by - 1, metadata=None)


def write_video(path: Path) -> None:
    """Twelve grey frames, by FFmpeg."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 48
        for level in range(12):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * level, np.uint8), "rgb24"))
            )
        container.mux(stream.encode(None))


def write_motion(table: Path, bag: Path) -> None:
    """A robot's tip in a table, and in a ROS recording."""
    table.write_text("time,pos_x,pos_y,pos_z\n" + "".join(f"{i / 50},{i},{i * i},{-i}\n" for i in range(9)))
    store, kind = get_typestore(Stores.ROS1_NOETIC), "geometry_msgs/msg/Point"
    with Writer(bag) as writer:
        topic = writer.add_connection("/tip", kind, typestore=store)
        for i in range(9):
            point = store.types[kind](float(i), 0.0, 1.0)
            writer.write(topic, i * 20_000_000, store.serialize_ros1(point, kind))


def workbook(path: Path) -> None:
    """The least that ECMA-376 calls a workbook: one sheet of two rows."""
    cell = lambda place, value: f'<c r="{place}" t="inlineStr"><is><t>{value}</t></is></c>'
    table = (("patient", "age"), ("P1", 61), ("P2", 7))
    rows = "".join(f'<row r="{r}">{cell(f"A{r}", a)}{cell(f"B{r}", b)}</row>' for r, (a, b) in enumerate(table, 1))
    main, office = "http://schemas.openxmlformats.org/spreadsheetml/2006/main", "http://schemas.openxmlformats.org"
    kinds = f"{office}/officeDocument/2006/relationships"
    related = lambda kind, target: (
        f'<Relationships xmlns="{office}/package/2006/relationships"><Relationship Id="r1" Type="{kinds}/{kind}" '
        f'Target="{target}"/></Relationships>'
    )
    parts = {
        "_rels/.rels": related("officeDocument", "xl/workbook.xml"),
        "xl/_rels/workbook.xml.rels": related("worksheet", "worksheets/sheet1.xml"),
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{kinds}"><sheets><sheet name="Ward" sheetId="1" r:id="r1"/></sheets>'
        "</workbook>",
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{rows}</sheetData></worksheet>',
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)


def examples(reader: ModuleType, most: int = 3) -> list[Path]:
    """Files that are this reader's, of the hospital or written, the smallest ones."""
    every = sorted((*HOSPITAL.rglob("*"), *written().iterdir()), key=lambda p: (p.stat().st_size, p))
    found = [p for p in every if p.is_file() and mine(reader, p)]
    assert found, f"give the embedded hospital a file that {NAME(reader)} reads"
    return found[:most]


def mine(reader: ModuleType, path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(4096)
    return next((r for r in READERS if r.recognises(path, head)), None) is reader


@pytest.fixture(scope="module")
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A whole file, in a folder of its own with what it needs beside it."""
    reader: ModuleType = request.param
    for path in examples(reader, most=50):
        if any(isinstance(item, Record | Events) for item in records.read(path)):
            folder = tmp_path_factory.mktemp(NAME(reader))
            for sibling in path.parent.glob(path.name.split(".")[0] + ".*"):
                shutil.copy(sibling, folder)
            yield folder / path.name
            return
    pytest.fail(f"no file of the embedded hospital gives {NAME(reader)} a record or an event")


each_example = pytest.mark.parametrize("example", READERS, ids=NAME, indirect=True)


def check(record: Record, path: Path) -> None:
    """The record's form, whatever the format."""
    assert len(record.id) == 32
    int(record.id, 16)
    assert record.patient == record.patient.strip() != ""
    assert records.split_uri(record.uri)[0] == path.name
    assert record.kind
    assert all(isinstance(v, str | int | float | bool | None) for v in record.attributes.values())
    assert not any(isinstance(v, float) and not np.isfinite(v) for v in record.attributes.values())


def check_payload(payload: Payload, record: Record) -> None:
    if record.attributes.get("annotation") == "boxes":  # (n 4), not an image
        assert payload.array.shape == (len(payload.names), 4)
        return
    assert payload.array.ndim == (2 if record.kind == slide_features.KIND else AXES[record.modality])
    if record.modality is Modality.TEXT:
        assert payload.text
    elif record.modality in (Modality.TABLE, Modality.OMICS, Modality.SIGNAL):
        assert len(payload.names) == len(payload.array)
    else:
        assert payload.array.dtype == (np.uint8 if record.modality is Modality.VIDEO else np.float32)
        assert payload.array.size
    if payload.to_world is not None:
        assert payload.to_world.shape == (4, 4)
        assert abs(np.linalg.det(payload.to_world)) > 0


def check_events(table: pa.Table) -> None:
    """The event table's form (`schema.Events`): a patient and a code each, a time unless it is who somebody is."""
    assert {"patient", "time", "code"} <= set(table.column_names)
    assert set(table.column_names) <= {
        "patient", "time", "code", "numeric_value", "text_value", "unit", "source_value", "source_unit", "encounter", "site",
    }  # fmt: skip
    assert table["patient"].null_count == table["code"].null_count == 0 < len(table)
    assert table["time"].type == pa.timestamp("us")


@every_reader
def test_the_hospital_has_files_of_every_format_and_none_raises(reader: ModuleType) -> None:
    for path in examples(reader):
        for item in records.read(path):
            assert isinstance(item, Record | Rejected | Events)
            if isinstance(item, Rejected):
                assert item.found
                assert item.expected
                assert item.remedy


@each_example
def test_a_record_has_its_form_and_its_payload_loads(example: Path) -> None:
    found = list(records.read(example))
    taken = [item for item in found if isinstance(item, Record)]
    assert len({r.id for r in taken}) == len(taken)
    for item in found:
        if isinstance(item, Events):
            check_events(item.table)
    for record in taken[:20]:
        check(record, example)
        check_payload(records.load(record, example.parent), record)


@each_example
def test_reading_again_or_elsewhere_gives_the_same_and_leaves_the_source_as_it_was(
    example: Path, tmp_path: Path
) -> None:
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in example.parent.iterdir()}
    first = list(records.read(example))
    elsewhere = tmp_path / "mri" / "labels" / "patient9"  # names above the ingested folder must not count
    shutil.copytree(example.parent, elsewhere)
    assert list(records.read(example)) == first
    assert list(records.read(elsewhere / example.name)) == first
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in example.parent.iterdir()} == before


@each_example
def test_another_byte_is_another_record(example: Path, tmp_path: Path) -> None:
    copy = tmp_path / example.name
    shutil.copytree(example.parent, tmp_path, dirs_exist_ok=True)
    ids = {r.id for r in records.read(copy) if isinstance(r, Record)}
    shutil.copyfile(example, copy)
    with copy.open("ab") as file:
        file.write(b"\n")
    assert ids.isdisjoint(r.id for r in records.read(copy) if isinstance(r, Record))


@each_example
def test_an_empty_file_is_set_aside(example: Path, tmp_path: Path) -> None:
    (tmp_path / example.name).touch()
    (item,) = records.read(tmp_path / example.name)
    assert isinstance(item, Rejected)
    assert item.found == "an empty file"


def survives(path: Path) -> None:
    """Reading never raises; what was taken loads, or says why it does not."""
    for item in list(records.read(path))[:3]:
        assert isinstance(item, Record | Rejected | Events)
        if isinstance(item, Record):
            with suppress(RecordError):
                check_payload(records.load(item, path.parent), item)


@each_example
@quick
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_never_crashes(example: Path, tmp_path: Path, share: float) -> None:
    data = example.read_bytes()
    shutil.copytree(example.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / example.name).write_bytes(data[: int(share * len(data))])
    survives(tmp_path / example.name)


@each_example
@quick
@given(data=st.binary(min_size=1, max_size=2000))
def test_random_bytes_never_crash(example: Path, tmp_path: Path, data: bytes) -> None:
    shutil.copytree(example.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / example.name).write_bytes(data)
    survives(tmp_path / example.name)


@each_example
@quick
@given(seed=st.integers(0, 2**32))
def test_damaged_bytes_never_crash(example: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    data = bytearray(example.read_bytes())
    for _ in range(draw.randint(1, 8)):
        data[int(len(data) * draw.random() ** 3)] = draw.randrange(256)  # mostly in the header
    shutil.copytree(example.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / example.name).write_bytes(data)
    survives(tmp_path / example.name)
