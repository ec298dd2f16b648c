"""Workbooks written by hand after ECMA-376 (.xlsx), OASIS OpenDocument 1.2 (.ods), [MS-XLS] (.xls) and [MS-XLSB] (.xlsb)."""

from __future__ import annotations

import datetime as dt
import resource
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyclinic import records
from polyclinic.schema import Modality, Record
from reading import parted

Cell = str | int | float | bool | dt.date | dt.datetime | None
Rows = Sequence[Sequence[Cell]]
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATED = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_HIDDEN = ' state="hidden"'
PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def serial(day: dt.date | dt.datetime) -> float:
    """Days since 1899-12-30, as ECMA-376 part 1, 18.17.4.1 counts from March 1900 on."""
    moment = day if isinstance(day, dt.datetime) else dt.datetime(day.year, day.month, day.day)
    return (moment - dt.datetime(1899, 12, 30)) / dt.timedelta(days=1)


def letters(column: int) -> str:
    name = ""
    while column >= 0:
        column, name = column // 26 - 1, chr(65 + column % 26) + name
    return name


def xlsx_cell(place: str, value: Cell) -> str:
    match value:
        case None:
            return ""
        case bool():
            return f'<c r="{place}" t="b"><v>{int(value)}</v></c>'
        case dt.datetime() | dt.date():
            return f'<c r="{place}" s="{2 if isinstance(value, dt.datetime) else 1}"><v>{serial(value)!r}</v></c>'
        case str() if value.endswith("%"):
            return f'<c r="{place}" s="3"><v>{float(value[:-1]) / 100!r}</v></c>'
        case str() if value.startswith("#"):
            return f'<c r="{place}" t="e"><v>{value}</v></c>'
        case str():
            return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>'
        case _:
            return f'<c r="{place}"><v>{value!r}</v></c>'


def relations(*items: tuple[str, str, str]) -> str:
    """A relationships part (ECMA-376 part 2, 6.5): id, type, target."""
    body = "".join(f'<Relationship Id="{i}" Type="{RELATED}/{kind}" Target="{to}"/>' for i, kind, to in items)
    return f'<Relationships xmlns="{PACKAGE}/relationships">{body}</Relationships>'


def write_xlsx(path: Path, sheets: Mapping[str, Rows], hidden: Sequence[str] = (), merged: Sequence[str] = ()) -> Path:
    """A workbook of the given sheets; the merged ranges are the first one's."""
    listed = "".join(
        f'<sheet name="{escape(n)}" sheetId="{i}" r:id="r{i}"{_HIDDEN if n in hidden else ""}/>'
        for i, n in enumerate(sheets, 1)
    )
    styles = "".join(f'<xf numFmtId="{n}" applyNumberFormat="1"/>' for n in (0, 14, 22, 9))  # 18.8.30: dates, percent
    parts = [(f"r{i}", "worksheet", f"worksheets/sheet{i}.xml") for i in range(1, len(sheets) + 1)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", f'<Types xmlns="{PACKAGE}/content-types"/>')
        archive.writestr("_rels/.rels", relations(("r1", "officeDocument", "xl/workbook.xml")))
        archive.writestr("xl/_rels/workbook.xml.rels", relations(*parts, ("s", "styles", "styles.xml")))
        archive.writestr(
            "xl/workbook.xml", f'<workbook xmlns="{MAIN}" xmlns:r="{RELATED}"><sheets>{listed}</sheets></workbook>'
        )
        archive.writestr(
            "xl/styles.xml", f'<styleSheet xmlns="{MAIN}"><cellXfs count="4">{styles}</cellXfs></styleSheet>'
        )
        for i, rows in enumerate(sheets.values(), 1):
            body = "".join(
                f'<row r="{r}">{"".join(xlsx_cell(f"{letters(c)}{r}", v) for c, v in enumerate(row))}</row>'
                for r, row in enumerate(rows, 1)
            )
            joined = "".join(f'<mergeCell ref="{m}"/>' for m in merged) if i == 1 else ""
            archive.writestr(
                f"xl/worksheets/sheet{i}.xml", worksheet(body, f"<mergeCells>{joined}</mergeCells>" if joined else "")
            )
    return path


def worksheet(rows: str, end: str = "") -> str:
    return f'<worksheet xmlns="{MAIN}"><sheetData>{rows}</sheetData>{end}</worksheet>'


def ods_cell(value: Cell) -> str:
    kind = lambda name, attribute, v: f'<table:table-cell office:value-type="{name}" office:{attribute}="{v}"/>'
    match value:
        case None:
            return "<table:table-cell/>"
        case bool():
            return kind("boolean", "boolean-value", str(value).lower())
        case dt.datetime() | dt.date():
            return kind("date", "date-value", value.isoformat())
        case str() if value.endswith("%"):
            return kind("percentage", "value", repr(float(value[:-1]) / 100))
        case str():
            return f'<table:table-cell office:value-type="string"><text:p>{escape(value)}</text:p></table:table-cell>'
        case _:
            return kind("float", "value", repr(value))


def ods_row(cells: str, repeated: int = 1) -> str:
    return f'<table:table-row table:number-rows-repeated="{repeated}">{cells}</table:table-row>'


def write_ods(path: Path, sheets: Mapping[str, Rows | str], manifest: str = "") -> Path:
    """A spreadsheet of the given sheets, each with the million empty rows below that LibreOffice writes."""
    names = ("office", "table", "text", "manifest")
    spaces = " ".join(f'xmlns:{n}="urn:oasis:names:tc:opendocument:xmlns:{n}:1.0"' for n in names)
    below = ods_row('<table:table-cell table:number-columns-repeated="16384"/>', 1_048_000)
    body = "".join(
        f'<table:table table:name="{escape(n)}">'
        + (
            rows
            if isinstance(rows, str)
            else "".join(ods_row("".join(map(ods_cell, r)) or ods_cell(None)) for r in rows) + below
        )
        + "</table:table>"
        for n, rows in sheets.items()
    )
    body = f"<office:body><office:spreadsheet>{body}</office:spreadsheet></office:body>"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet", zipfile.ZIP_STORED)
        archive.writestr("META-INF/manifest.xml", f"<manifest:manifest {spaces}>{manifest}</manifest:manifest>")
        archive.writestr("content.xml", f"<office:document-content {spaces}>{body}</office:document-content>")
    return path


def biff(kind: int, data: bytes) -> bytes:
    return struct.pack("<HH", kind, len(data)) + data


def write_xls(path: Path, sheets: Mapping[str, Rows], locked: bool = False) -> Path:
    """BIFF8 ([MS-XLS] 2.4) in one stream of a compound file ([MS-CFB] 2.2 to 2.6)."""
    begin = lambda kind: biff(0x809, struct.pack("<4H2L", 0x600, kind, 0, 0, 0, 6))
    word = lambda s: struct.pack("<HB", len(s), 1) + s.encode("utf-16-le")
    body, bodies = [], []
    for rows in sheets.values():
        cells = b""
        for r, row in enumerate(rows):
            for c, value in enumerate(row):
                if isinstance(value, str):
                    cells += biff(0x204, struct.pack("<3H", r, c, 0) + word(value))
                elif value is not None:
                    assert isinstance(value, int | float)
                    cells += biff(0x203, struct.pack("<3Hd", r, c, 0, float(value)))
        bodies.append(begin(0x10) + cells + biff(0xA, b""))
    lock = biff(0x2F, struct.pack("<3H", 1, 1, 1) + bytes(48)) if locked else b""
    named = [n.encode() for n in sheets]
    at = len(begin(5) + lock) + sum(4 + 8 + len(n) for n in named) + 4
    for n, data in zip(named, bodies, strict=True):
        body.append(biff(0x85, struct.pack("<LBBBB", at, 0, 0, len(n), 0) + n))
        at += len(data)
    stream = begin(5) + lock + b"".join(body) + biff(0xA, b"") + b"".join(bodies)
    stream += bytes(max(4096 - len(stream), -len(stream) % 512))  # shorter ones live elsewhere
    sectors = -(-len(stream) // 512)
    entry = lambda name, kind, child, start, size: (
        (name + "\0").encode("utf-16-le").ljust(64, b"\0")
        + struct.pack("<HBBLLL16sL8s8sLQ", 2 * len(name) + 2, kind, 1, 2**32 - 1, 2**32 - 1, child, b"", 0, b"", b"", start, size)
    )  # fmt: skip
    folder = entry("Root Entry", 5, 1, 2**32 - 2, 0) + entry("Workbook", 2, 2**32 - 1, 2, len(stream)) + bytes(256)
    table = [2**32 - 3, 2**32 - 2, *range(3, 2 + sectors), 2**32 - 2]
    assert len(table) <= 128
    head = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16)
    head += struct.pack("<5H6x", 0x3E, 3, 0xFFFE, 9, 6) + struct.pack(
        "<9L", 0, 1, 1, 0, 4096, 2**32 - 2, 0, 2**32 - 2, 0
    )
    head += struct.pack("<109L", 0, *[2**32 - 1] * 108)
    path.write_bytes(head + struct.pack("<128L", *table, *[2**32 - 1] * (128 - len(table))) + folder + stream)
    return path


def biff12(kind: int, data: bytes = b"") -> bytes:
    """A record ([MS-XLSB] 2.1.4): type and size in sevens of bits, the eighth says that more follow."""
    sevens = lambda n: bytes([n & 127 | (128 if n > 127 else 0)]) + (sevens(n >> 7) if n > 127 else b"")
    return sevens(kind) + sevens(len(data)) + data


def write_xlsb(path: Path, sheets: Mapping[str, Rows]) -> Path:
    """A binary workbook of words and numbers; 2.4 has the records."""
    word = lambda s: struct.pack("<L", len(s)) + s.encode("utf-16-le")
    listed = b"".join(biff12(156, struct.pack("<2L", 0, i) + word(f"r{i}") + word(n)) for i, n in enumerate(sheets, 1))
    parts = [(f"r{i}", "worksheet", f"worksheets/sheet{i}.bin") for i in range(1, len(sheets) + 1)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", f'<Types xmlns="{PACKAGE}/content-types"/>')
        archive.writestr("_rels/.rels", relations(("r1", "officeDocument", "xl/workbook.bin")))
        archive.writestr("xl/_rels/workbook.bin.rels", relations(*parts))
        archive.writestr("xl/workbook.bin", biff12(131) + biff12(143) + listed + biff12(144) + biff12(132))
        for i, rows in enumerate(sheets.values(), 1):
            body = b""
            for r, row in enumerate(rows):
                body += biff12(0, struct.pack("<2LH3xL", r, 0, 300, 0))
                for c, value in enumerate(row):
                    if isinstance(value, str):
                        body += biff12(6, struct.pack("<2L", c, 0) + word(value))
                    elif value is not None:
                        assert isinstance(value, int | float)
                        body += biff12(5, struct.pack("<2Ld", c, 0, float(value)))
            size = struct.pack("<4L", 0, len(rows) - 1, 0, max(map(len, rows)) - 1)
            sheet = biff12(129) + biff12(148, size) + biff12(145) + body + biff12(146) + biff12(130)
            archive.writestr(f"xl/worksheets/sheet{i}.bin", sheet)
    return path


VISITS: Rows = [
    ["Patient ID", "visit date", "age", "finding", "smoker", "share", "stored as text"],
    [7, dt.date(2020, 1, 31), 64.5, "COVID-19", True, "12.5%", "3.25"],
    ["P8", dt.datetime(2020, 2, 1, 13, 45), None, "unknown", False, None, "007"],
]


@pytest.mark.parametrize("form", ["xlsx", "ods"])
def test_a_row_is_a_record_with_dates_numbers_and_percents(tmp_path: Path, form: str) -> None:
    write = write_xlsx if form == "xlsx" else write_ods
    found, reasons = parted(write(tmp_path / f"visits.{form}", {"Ward 3": VISITS}))
    assert reasons == []
    one, two = found
    assert (one.patient, two.patient) == ("7", "P8")
    assert (one.time, two.time) == (dt.datetime(2020, 1, 31), dt.datetime(2020, 2, 1, 13, 45))
    assert (one.kind, one.modality) == ("table visits Ward 3", Modality.TABLE)
    assert one.uri == f"visits.{form}#sheet=Ward%203&row=2"
    assert records.split_uri(one.uri) == (f"visits.{form}", "sheet=Ward%203&row=2")
    assert dict(one.attributes) == {
        "visit date": "2020-01-31", "age": 64.5, "finding": "COVID-19", "smoker": "true", "share": 0.125, "stored as text": 3.25,
    }  # fmt: skip
    assert two.attributes["finding"] is None
    assert two.attributes["age"] is None
    assert records.load(one, tmp_path).names[1] == "age"


@pytest.mark.parametrize("form", ["xls", "xlsb"])
def test_a_binary_workbook_is_read_too(tmp_path: Path, form: str) -> None:
    write = write_xls if form == "xls" else write_xlsb
    rows: Rows = [["patient", "age", "note"], [12, 64.5, "Größe"], ["P2", None, "b"]]
    found, reasons = parted(write(tmp_path / f"a.{form}", {"Old": rows, "More": [["patient", "x"], ["P3", 1]]}))
    assert reasons == []
    assert [(r.patient, dict(r.attributes)) for r in found] == [
        ("12", {"age": 64.5, "note": "Größe"}), ("P2", {"age": None, "note": "b"}), ("P3", {"x": 1}),
    ]  # fmt: skip


def test_every_sheet_counts_and_a_hidden_one_says_so(tmp_path: Path) -> None:
    sheets: dict[str, Rows] = {
        "Labs & co": [["patient", "crp"], ["P1", 4]],
        "Readme": [["made by", "a program"]],
        "Empty": [],
        "Old labs": [["patient", "crp"], ["P1", 9], [None, 3]],
    }
    found, reasons = parted(write_xlsx(tmp_path / "a.xlsx", sheets, hidden=["Old labs"]))
    assert [(r.uri, dict(r.attributes)) for r in found] == [
        ("a.xlsx#sheet=Labs%20%26%20co&row=2", {"crp": 4}),
        ("a.xlsx#sheet=Old%20labs&row=2", {"crp": 9, "hidden_sheet": True}),
    ]
    assert reasons == ["a table with the columns made by, a program", "row 3 without a patient"]
    assert len({r.id for r in found}) == 2


def test_the_header_is_found_below_titles_and_merged_cells_hold_for_their_rows(tmp_path: Path) -> None:
    rows: Rows = [
        ["Ward list, exported 2020"], [], [None, "site", "A"],
        [None, "Patient", "drug", "dose", None], [None, "P1", "aspirin", 100], [None, None, "heparin", 5, None, "a stray note"],
        [], [None, "P2", "aspirin", "#N/A"], [None, None, "Total", 2],
    ]  # fmt: skip
    found, reasons = parted(write_xlsx(tmp_path / "a.xlsx", {"S": rows}, merged=["A1:F1", "B5:B6"]))
    assert [(r.patient, dict(r.attributes)) for r in found] == [
        ("P1", {"drug": "aspirin", "dose": 100}), ("P1", {"drug": "heparin", "dose": 5}), ("P2", {"drug": "aspirin", "dose": None}),
    ]  # fmt: skip
    assert [r.uri.rpartition("=")[2] for r in found] == ["5", "6", "8"]
    assert reasons == ["row 9 without a patient"]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4))
def test_numbers_come_back_to_the_bit(tmp_path: Path, numbers: list[float]) -> None:
    found, _ = parted(write_xlsx(tmp_path / "a.xlsx", {"S": [["patient", "x"], *(["P", n] for n in numbers)]}))
    assert [r.attributes["x"] for r in found] == numbers


def sheet_xml(path: Path, xml: Iterable[str]) -> Path:
    """A workbook whose first sheet is the given XML."""
    whole = write_xlsx(path.with_suffix(".whole"), {"S": [["patient", "x"]]})
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if "sheet1" not in name:
                new.writestr(name, old.read(name))
        with new.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as file:
            for part in xml:
                file.write(part.encode())
    return path


def corner(path: Path) -> Path:
    """Two cells, in the first and the last place of a sheet: 400 GiB where it is laid out whole."""
    first, last = '<row r="1"><c r="A1"><v>1</v></c></row>', '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    return sheet_xml(path, [worksheet(first + last)])


def ods_corner(path: Path) -> Path:
    """One cell, repeated over a whole sheet."""
    cell = '<table:table-cell office:value-type="float" office:value="1" table:number-columns-repeated="16384"/>'
    return write_ods(path, {"S": ods_row(cell, 1_048_576)})


def bomb(path: Path) -> Path:
    return sheet_xml(path, (" " * (1 << 20) for _ in range(64)))


def text(path: Path) -> Path:
    path.write_text("patient\tx\nP1\t2\n")
    return path


def locked_ods(path: Path) -> Path:
    return write_ods(
        path,
        {},
        '<manifest:file-entry manifest:full-path="content.xml"><manifest:encryption-data/></manifest:file-entry>',
    )


def locked_xlsx(path: Path) -> Path:
    """What Excel makes of a locked workbook: a compound file with its one stream (here, without its content)."""
    data = write_xls(path, {"S": []}).read_bytes()
    path.write_bytes(data.replace("Workbook".encode("utf-16-le"), "EncryptedPackage".encode("utf-16-le"), 1))
    return path


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("a.xlsx", corner, "a file whose decoder ended beyond"),
        ("a.ods", ods_corner, "a file that does not open"),
        ("b.xlsx", bomb, "a workbook that unpacks to 64 MiB"),
        ("c.xls", text, "a file named .xls that is no workbook"),
        ("d.ods", locked_ods, "a workbook locked with a password"),
        ("e.xlsx", locked_xlsx, "a workbook locked with a password"),
        ("f.xls", lambda path: write_xls(path, {"S": []}, locked=True), "a workbook locked with a password"),
        ("g.xlsx", lambda path: write_xlsx(path, {"S": [], "T": []}), "a workbook without a row"),
    ],
    ids=["corner.xlsx", "corner.ods", "bomb", "text", "locked.ods", "locked.xlsx", "locked.xls", "empty"],
)
def test_what_cannot_be_taken_says_why_and_takes_no_memory(
    tmp_path: Path, name: str, make: Callable[[Path], Path], reason: str
) -> None:
    path = make(tmp_path / name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, reasons = parted(path)
    assert not found
    assert reasons[-1].startswith(reason)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("name", ["a.xlsx", "a.ods", "a.xls"])
def test_a_file_cut_short_is_refused(tmp_path: Path, name: str, share: float) -> None:
    rows: Rows = [["patient", "x"], *([f"P{i}", i * 7919] for i in range(400))]
    path = {"xlsx": write_xlsx, "ods": write_ods, "xls": write_xls}[name[2:]](tmp_path / name, {"S": rows})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    found, reasons = parted(path)
    assert len(found) < 400
    assert reasons


def test_reading_a_part_leaves_no_process_behind(tmp_path: Path) -> None:
    rows: Rows = [["patient", "x"], *([f"P{i}", i] for i in range(5000))]
    reading = records.read(write_xlsx(tmp_path / "a.xlsx", {"S": rows}))
    assert isinstance(next(iter(reading)), Record)
    reading.close()  # type: ignore[attr-defined]
    children = Path("/proc/self/task").glob("*/children")
    commands = [Path(f"/proc/{pid}/cmdline") for file in children for pid in file.read_text().split()]
    assert not any(b"apart.py" in c.read_bytes() for c in commands if c.exists())
