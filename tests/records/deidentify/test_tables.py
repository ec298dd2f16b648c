"""Tables: who is in them goes, what was measured stays, and k-anonymity is what it says."""

from __future__ import annotations

import csv
import gzip
import re
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.records.deidentify import Options, deidentify
from polyclinic.records.deidentify.tables import _capped

HEAD = [
    "patient_id",
    "First Name",
    "surname",
    "date_of_birth",
    "Phone",
    "email",
    "address",
    "zip",
    "age",
    "sex",
    "admitted",
    "accession",
    "attending physician",
    "hospital",
    "note",
    "creatinine",
    "finding",
    "remark_code",
    "who",
    "other_number",
]
NAMES = ["Zebedee", "Quillon", "Ottoline", "Barnaby", "Wilhelmina", "Clementine"]


def write(path: Path, rows: list[list[str]], head: list[str] = HEAD) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def read(path: Path) -> list[dict[str, str]]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return list(csv.DictReader(text.decode().splitlines()))


@pytest.fixture
def people(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    rows = []
    for n in range(24):
        name = NAMES[n % 6]
        rows.append(
            [
                f"MRN55{n:03d}",
                name,
                f"{name}son",
                f"19{20 + n}-05-03",
                f"555-867-{5300 + n}",
                f"{name}{n}@example.org",
                f"{n} Marigold Lane",
                f"0213{n % 10}",
                str(70 + n),
                "FM"[n % 2],
                f"2019-03-{n + 1:02d} 10:15",
                f"ACC{88000 + n}",
                "Dr Vandermeer",
                "Saint Elsewhere",
                f"{name} was seen by Dr. Vandermeer on 3/{n + 1}/2019 for cough.",
                f"{0.8 + n / 100:.2f}",
                "pneumonia" if n % 3 else "no finding",
                "A",
                f"{name} Smith",
                str(700000 + 7919 * n),
            ]
        )
    write(tmp_path / "in/visits.csv", rows)
    return tmp_path


def test_identifying_columns_go_and_measurements_stay(people: Path) -> None:
    report = deidentify(people / "in", people / "out", people / "key")
    before, after = read(people / "in/visits.csv"), read(people / "out/visits.csv")
    assert [r["creatinine"] for r in after] == [r["creatinine"] for r in before]
    assert [r["finding"] for r in after] == [r["finding"] for r in before]
    assert [r["sex"] for r in after] == [r["sex"] for r in before]
    assert set(after[0]) & {"First Name", "surname", "Phone", "email", "address", "zip", "who"} == set()
    content = (people / "out/visits.csv").read_text() + (people / "out/.deidentified.json").read_text()
    for row in before:
        for column in set(HEAD) - {"age", "sex", "creatinine", "finding", "remark_code", "note", "admitted"}:
            assert not re.search(rf"\b{re.escape(row[column])}\b", content), column
    for word in (*NAMES, "Vandermeer", "Elsewhere", "Marigold"):
        assert word not in content
    assert all("for cough" in r["note"] for r in after)
    assert [int(r["age"]) for r in after] == [min(int(r["age"]), 90) for r in before]
    assert len({r["patient_id"] for r in after}) == 24
    assert report.tables["visits.csv"]["k_before"] == 1


def test_dates_move_by_patient_and_years_of_birth_are_capped(people: Path) -> None:
    from datetime import datetime

    deidentify(people / "in", people / "out", people / "key")
    before, after = read(people / "in/visits.csv"), read(people / "out/visits.csv")
    days = [
        (datetime.fromisoformat(b["admitted"]) - datetime.fromisoformat(a["admitted"])).days
        for a, b in zip(before, after, strict=True)
    ]
    assert all(1 <= abs(d) <= 365 for d in days)
    assert len(set(days)) > 12
    assert all(r["admitted"].endswith("10:15:00") for r in after)
    now = datetime.now().year
    expected = [str(max(int(r["date_of_birth"][:4]), now - 90)) for r in before]
    assert [r["date_of_birth"] for r in after] == expected


def classes(rows: list[dict[str, str]], columns: list[str]) -> dict[tuple[str, ...], set[str]]:
    found: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for row in rows:
        found[tuple(row[c] for c in columns)].add(row["patient_id"])
    return found


@settings(max_examples=25, deadline=None)
@given(
    people=st.lists(st.tuples(st.integers(20, 24), st.sampled_from("MF"), st.integers(1, 2)), min_size=1, max_size=40),
    k=st.integers(2, 5),
)
def test_every_combination_is_shared_by_k_people(
    people: list[tuple[int, str, int]], k: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("k")
    (place / "in").mkdir()
    rows = [[f"person{n}", str(age), sex, "1.5"] for n, (age, sex, times) in enumerate(people) for _ in range(times)]
    write(place / "in/table.csv", rows, ["patient_id", "age", "sex", "value"])
    report = deidentify(place / "in", place / "out", place / "key", Options(k=k))
    after = read(place / "out/table.csv")
    sizes = [len(who) for who in classes(after, ["age", "sex"]).values()]
    assert min(sizes) >= min(k, len(people))
    told = report.tables["table.csv"]
    assert told["k_after"] == min(sizes)
    assert told["k_before"] == min(len(w) for w in classes(read(place / "in/table.csv"), ["age", "sex"]).values())
    assert [r["value"] for r in after] == ["1.5"] * len(rows)
    if told["k_before"] >= k:
        assert told["suppressed_people"] == 0
        assert [r["age"] for r in after] == [str(age) for age, _, times in people for _ in range(times)]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("89", "89"),
        ("90", "90"),
        ("300", "90"),
        ("> 89", "90"),
        ("91.5", "90"),
        ("45", "45"),
        ("adult", "adult"),
        ("103 years", "90 years"),
    ],
)
def test_ages_are_capped(cell: str, expected: str) -> None:
    assert _capped(cell) == expected


def test_a_table_of_other_form(tmp_path: Path) -> None:
    """Semicolons, tabs and gzip; rows with too many cells are left out."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("patient_id;value\nMRN5501;1,5\nMRN5502;2,5;DOE\n")
    (tmp_path / "in/b.tsv").write_text("patient_id\tvalue\nMRN5501\t7\n")
    with gzip.open(tmp_path / "in/c.csv.gz", "wt") as file:
        file.write("patient_id,value\nMRN5501,8\n")
    report = deidentify(tmp_path / "in", tmp_path / "out", tmp_path / "key")
    a, c = read(tmp_path / "out/a.csv"), read(tmp_path / "out/c.csv.gz")
    assert [r["value"] for r in a] == ["1.5"]
    assert a[0]["patient_id"] == c[0]["patient_id"]
    assert (tmp_path / "out/b.tsv").read_text() == f"patient_id\tvalue\n{a[0]['patient_id']}\t7\n"
    assert any("rows" in x.action for x in report.actions)


def test_real_tables_keep_their_ages_in_bounds(shared_data: Path, tmp_path: Path) -> None:
    """eICU's patients: `> 89` becomes 90, the numbers of stays no longer stand there."""
    source = next(p for p in (shared_data / "eicu-demo").rglob("patient.csv*"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / source.name).write_bytes(source.read_bytes())
    report = deidentify(tmp_path / "in", tmp_path / "out", tmp_path / "key")
    before, after = read(source), read(tmp_path / "out" / report.files[0])
    assert len(after) == len(before)
    assert not {r["patientunitstayid"] for r in before} & {cell for r in after for cell in r.values()}
    assert max(float(r["age"]) for r in after if r["age"]) <= 90


def test_a_clock_since_1970_moves_with_the_days(tmp_path: Path) -> None:
    """Kinematics and monitors log the seconds since 1970: they move as dates do, in one table of no one all alike."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/motion.csv").write_text(
        "timestamp,joint1 position,pose x,pose y\n" + "".join(f"1552558500.{n}25,{n},{n},2\n" for n in range(4))
    )
    (tmp_path / "in/monitor.csv").write_text(
        "patient_id,time_ms,rate\nMRN5501,1552558500125,7\nMRN5502,1552558500125,8\n"
    )
    report = deidentify(tmp_path / "in", tmp_path / "out", tmp_path / "key")
    rows = {f: read(tmp_path / "out" / f) for f in report.files}
    motion = next(r for r in rows.values() if len(r) == 4)
    steps = [float(r["timestamp"]) - 1552558500.025 - n / 10 for n, r in enumerate(motion)]
    assert len({round(s) for s in steps}) == 1
    assert 1 <= abs(round(steps[0])) / 86400 <= 365
    assert all(r["timestamp"].endswith(f".{n}25") for n, r in enumerate(motion))
    assert [r["pose x"] for r in motion] == ["0", "1", "2", "3"]
    from polyclinic.records.deidentify import open_key

    key, monitor = open_key(tmp_path / "key"), next(r for r in rows.values() if len(r) == 2)
    assert [(int(r["time_ms"]) - 1552558500125) // 86_400_000 for r in monitor] == [
        key.days("MRN5501"),
        key.days("MRN5502"),
    ]
