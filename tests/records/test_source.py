from __future__ import annotations

import gzip
import hashlib
import logging
import threading
import warnings
import zipfile
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.records import RecordError, content_id, source, split_uri
from polyclinic.records.source import LARGEST_BYTES, LONGEST_ROW, Lines, check_size, encoding_of, open_text, parse_time


def test_the_id_is_blake2b_of_the_bytes_and_the_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    expected = hashlib.blake2b(b"abc\x00row=1", digest_size=16).hexdigest()
    assert content_id(tmp_path / "a", "row=1") == content_id(b"abc", "row=1") == expected


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("a/b.csv#row=17", ("a/b.csv", "row=17")),
        ("a#series=1.2.3", ("a", "series=1.2.3")),
        ("a#series=1.2.3&run=2", ("a", "series=1.2.3&run=2")),
        ("a/b.txt", ("a/b.txt", "")),
        ("note #2 dose=5.txt", ("note #2 dose=5.txt", "")),
        ("a#b=c.csv#row=1", ("a#b=c.csv", "row=1")),
    ],
)
def test_a_uri_parts_into_file_and_fragment(uri: str, parts: tuple[str, str]) -> None:
    assert split_uri(uri) == parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-01-31", datetime(2020, 1, 31)),
        ("2020-01-31 14:30", datetime(2020, 1, 31, 14, 30)),
        ("2020-01-31T14:30:05Z", datetime(2020, 1, 31, 14, 30, 5)),
        ("2020-01-31T23:30:00-05:00", datetime(2020, 1, 31, 23, 30)),
        ("20200131", datetime(2020, 1, 31)),
        ("20200131143059.25", datetime(2020, 1, 31, 14, 30, 59)),
        ("2020/01/31", datetime(2020, 1, 31)),
        ("January 31, 2020", datetime(2020, 1, 31)),
        ("Oct 8, 2010", datetime(2010, 10, 8)),
        ("31 January 2020", datetime(2020, 1, 31)),
        ("29-Sep-1990", datetime(1990, 9, 29)),
        ("31.01.2020", datetime(2020, 1, 31)),
        ("04.05.2020", datetime(2020, 5, 4)),
        ("01/31/2020", datetime(2020, 1, 31)),
        ("31/01/2020", datetime(2020, 1, 31)),
        ("05/05/2020", datetime(2020, 5, 5)),
        ("01/31/2020 14:30", datetime(2020, 1, 31, 14, 30)),
        ("04/05/2020", None),  # April or May
        ("2020", None),
        ("March 2020", None),
        ("2020-01", None),
        ("202001", None),
        ("2020111", None),
        ("123456", None),
        ("2020-13-01", None),
        ("2020-02-30", None),
        ("30/02/2020", None),
        ("?", None),
        ("", None),
    ],
)
def test_a_time_is_known_or_it_is_not(text: str, expected: datetime | None) -> None:
    assert parse_time(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("11/27/19", datetime(2019, 11, 27)),  # neither a day 11 of a month 27, nor a year 11
        ("11/27/19 14:05", datetime(2019, 11, 27, 14, 5)),
        ("11/27/69", datetime(1969, 11, 27)),
        ("11/27/68", datetime(2068, 11, 27)),
        ("27/11/99", datetime(1999, 11, 27)),  # no month has a day 99
        ("5/5/99", datetime(1999, 5, 5)),  # whichever is the month
        ("99/12/31", datetime(1999, 12, 31)),
        ("27.11.19", datetime(2019, 11, 27)),
        ("3.4.19", datetime(2019, 4, 3)),
        ("27-NOV-19", datetime(2019, 11, 27)),  # as Oracle writes by default
        ("3/4/19", None),
        ("27/11/19", None),  # 2027-11-19 where the year comes first
        ("11/27/19 25:00", None),
        ("31/31/99", None),
        ("11.27.19", None),
    ],
)
def test_a_year_of_two_digits_is_read_where_it_means_one_day(text: str, expected: datetime | None) -> None:
    assert parse_time(text) == expected


@given(st.text(max_size=30))
def test_no_text_breaks_the_reading_of_times(text: str) -> None:
    assert parse_time(text) is None or isinstance(parse_time(text), datetime)


@given(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31)))
def test_iso_times_are_read_back(moment: datetime) -> None:
    assert parse_time(moment.isoformat()) == moment


def test_sizes_are_refused_from_the_header() -> None:
    check_size((LARGEST_BYTES // 4,), 4)
    with pytest.raises(RecordError, match=r"promises 2\.0 GiB"):
        check_size((LARGEST_BYTES // 4 + 1,), 4)
    with pytest.raises(RecordError, match="a dimension of 0"):
        check_size((3, 0), 4)
    with pytest.raises(RecordError, match="a dimension of -5"):
        check_size((-5, 3), 4)


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("Größe".encode(), "utf-8-sig"),
        ("Größe".encode()[:3], "utf-8-sig"),  # cut within a character
        ("Größe".encode("cp1252"), "cp1252"),
        ("Größe".encode("utf-16"), "utf-16"),
        ("Größe".encode("utf-8-sig"), "utf-8-sig"),
    ],
)
def test_the_encoding_is_found_out(data: bytes, encoding: str) -> None:
    assert encoding_of(data) == encoding
    if data != "Größe".encode()[:3]:
        assert data.decode(encoding) == "Größe"


def test_plain_gzip_and_zip_give_the_same_text(tmp_path: Path) -> None:
    text = "id,Größe\r\n1,2\n"
    (tmp_path / "a.csv").write_bytes(text.encode())
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
        archive.writestr("a.csv", text)
        archive.writestr("__MACOSX/._a.csv", b"litter")
    for name in ("a.csv", "a.csv.gz", "a.csv.zip"):
        with open_text(tmp_path / name) as stream:
            assert stream.read() == text


def test_a_zip_of_two_tables_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
        archive.writestr("a.csv", "x")
        archive.writestr("b.csv", "x")
    with pytest.raises(RecordError, match="a zip with 2 files"):
        open_text(tmp_path / "a.csv.zip")


def test_a_real_table_packs_well_and_is_read(tmp_path: Path) -> None:
    text = b"0,0,0,1\n" * (1 << 18) + "".join(f"{i}\n" for i in range(20_000)).encode()  # a sparse one
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text))
    with open_text(tmp_path / "a.csv.gz") as stream:
        assert stream.read().encode() == text


def test_what_unpacks_without_end_is_refused_as_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "EXPANDED_FREELY", 1 << 20)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"1,2\n" * (1 << 20)))
    with (
        open_text(tmp_path / "a.csv.gz") as stream,
        pytest.raises(RecordError, match="a gzip file that unpacks to more than 1 MiB"),
    ):
        for _ in stream:
            pass


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.zip"])
def test_a_packed_file_that_breaks_off_is_said_to(tmp_path: Path, name: str) -> None:
    whole = tmp_path / "whole"
    text = "".join(f"{i},{i * i}\n" for i in range(100_000))
    if name.endswith("gz"):
        whole.write_bytes(gzip.compress(text.encode()))
        (tmp_path / name).write_bytes(whole.read_bytes()[:-1000])
    else:
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.csv", text)
        data = bytearray(whole.read_bytes())
        data[5000:5100] = bytes(100)
        (tmp_path / name).write_bytes(data)
    with pytest.raises(RecordError, match="broken"), open_text(tmp_path / name) as stream:
        for _ in stream:
            pass


def test_a_line_is_never_read_beyond_bound(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1,2\n" + b"x" * (LONGEST_ROW + 10))
    with open_text(tmp_path / "a") as stream:
        lines = Lines(stream)
        assert next(lines) == "1,2\n"
        with pytest.raises(RecordError, match="a row of over 17 million characters"):
            next(lines)


def test_threads_that_are_quiet_at_once_leave_the_log_as_it_was() -> None:
    """One goes in, another goes in, the first leaves, the other leaves: each once put back what it had found."""
    log, turns = logging.getLogger("talkative"), [threading.Event() for _ in range(3)]
    heard: list[str] = []
    log.setLevel(logging.INFO)
    before = list(warnings.filters)

    @source.quiet("talkative")
    def first() -> None:
        turns[0].set()
        turns[1].wait(10)
        heard.append(f"first {log.isEnabledFor(logging.CRITICAL)}")

    @source.quiet("talkative")
    def second() -> None:
        turns[1].set()
        turns[2].wait(10)
        heard.append(f"second {log.isEnabledFor(logging.CRITICAL)}")

    one = threading.Thread(target=first)
    one.start()
    turns[0].wait(10)
    other = threading.Thread(target=second)
    other.start()
    one.join(10)
    turns[2].set()
    other.join(10)
    assert heard == ["first False", "second False"]
    assert log.level == logging.INFO
    assert list(warnings.filters) == before
