"""The page of a catalogue shows what there is, and nobody who is rare."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from polyclinic.cohort import Cohort
from polyclinic.schema import Modality, Record
from polyclinic.trust.pages.population_page import write_population_page


def hospital(path: Path) -> Cohort:
    found = []
    for i in range(24):
        site = "North" if i % 2 else "South & <East>"
        cells = {"sex": "FM"[i % 2], "age": 85.0 if i == 0 else 30.0 + i, "finding": "seldom" if i < 3 else "often"}
        found.append(Record(f"t{i}", f"P{i:02d}", None, Modality.TABLE, "table", "u", site, None, cells))
        if i < 2 or i > 10:
            found.append(Record(f"i{i}", f"P{i:02d}", None, Modality.IMAGE, "CR", "u", site, None, {}))
        if i < 2:
            found.append(Record(f"s{i}", f"P{i:02d}", None, Modality.SIGNAL, "ECG", "u", site, None, {}))
    cohort = Cohort.create(path)
    cohort.add(path, found)
    return cohort


def test_small_counts_are_not_shown(tmp_path: Path) -> None:
    cohort = hospital(tmp_path / "c")
    text = write_population_page(tmp_path / "page.html", cohort).read_text()
    body = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    shown = re.findall(r"<td[^>]*>([^<]*)</td>", body)
    whole = [int(cell) for cell in shown if cell.isdigit()]
    assert whole
    assert all(n == 0 or n >= 5 for n in whole)
    assert "&lt;5" in shown
    assert "seldom" not in body
    assert "often" in body
    assert "<East>" not in body
    assert "South &amp; &lt;East&gt;" in body
    assert "80 and over" in body
    assert "40–59" in body
    assert not re.search(r"\bP\d\d\b", body)  # nobody is named
    assert 'class="plot"' in body
    open_ = re.sub(
        r"<style>.*?</style>", "", write_population_page(tmp_path / "open.html", cohort, fewest=1).read_text()
    )
    assert "seldom 3" in open_


def test_the_years_that_are_shown_are_the_fullest(tmp_path: Path) -> None:
    cohort = Cohort.create(tmp_path / "c")
    years = [2020] * 8 + [2021] * 9 + [2150 + i for i in range(20)]  # twenty shifted dates beside two years of patients
    found = [
        Record(f"t{i}", f"P{i}", datetime(year, 5, 1), Modality.TABLE, "table", "u", "North", None, {})
        for i, year in enumerate(years)
    ]
    undated = [Record(f"u{i}", f"U{i}", None, Modality.TABLE, "table", "u", "North", None, {}) for i in range(6)]
    cohort.add(tmp_path, [*found, *undated])
    text = write_population_page(tmp_path / "page.html", cohort).read_text()
    head = re.findall(r"<th[^>]*>([^<]*)</th>", text[text.index("Patients by modality") :])[:4]
    assert head == ["modality · site", "unknown", "2020", "2021"]
    assert "10 years with fewer patients are not shown" in text


def test_an_empty_catalogue_has_a_page_too(tmp_path: Path) -> None:
    assert "0 patients" in write_population_page(tmp_path / "page.html", Cohort.create(tmp_path / "c")).read_text()
