"""`cohort describe --html`: who is in a catalogue, on one page. Counts of fewer than a few patients are not shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ...cohort import Cohort
from ...cohort.shift import Shift, Told, shifts, told_apart
from ...cohort.snapshot import IS_MASK
from .page import Section, lead, page, small, table
from .plots import upset

MOST_ROWS, MOST_YEARS, MOST_PATTERNS = 40, 12, 12


def write_population_page(path: str | Path, cohort: Cohort, fewest: int = 5) -> Path:
    """Write the page.

    Args:
        path: of the HTML file.
        cohort: the catalogue.
        fewest: patients; a smaller count is written as fewer than that, and a comparison with fewer is left out.
    """
    about = cohort.describe()
    with cohort.asking("from records, patients") as connection:
        times = connection.execute(
            f"""select modality, coalesce(nullif(site, ''), 'unknown'), coalesce(year(time)::varchar, 'unknown'), count(distinct patient)
            from records where not {IS_MASK} group by 1, 2, 3 order by 1, 2, 3"""
        ).fetchall()
        people = connection.execute(
            """select coalesce(sex, 'unknown'), case when age is null then 'unknown' when age >= 80 then '80 and over'
            else lpad((floor(age / 20) * 20)::int::varchar, 2, '0') || '–' || (floor(age / 20) * 20 + 19)::int end, count(*)
            from patients group by 1, 2 order by 1, 2"""
        ).fetchall()
        differing, told = shifts(connection, fewest), told_apart(connection, fewest)
    few = lambda n: f"&lt;{fewest}" if 0 < n < fewest else f"{n:,}"
    sections = [
        _when(times, few), _missing(about, few, fewest), _people(people, few), _labels(about, fewest), _shift(differing, told, fewest)
    ]  # fmt: skip
    head = (
        f'<header><p class="eyebrow">Catalogue</p><h1>Who is in {escape(cohort.path.resolve().name)}</h1>'
        f'<p class="sub">{few(about["patients"])} patients, {about["records"]:,} records, '
        f"{about['rejected']:,} files set aside</p></header>"
    )
    foot = small(
        f"A count of fewer than {fewest} patients is shown as &lt;{fewest}, and a comparison with fewer is left out, so that nobody is "
        "recognised by being rare. Sums are shown whole: of two numbers and their sum one can still be told."
    )
    place = Path(path)
    place.write_text(page("Who is in the catalogue", head, [s for s in sections if s], foot), encoding="utf-8")
    return place


def _when(rows: Sequence[tuple[str, str, str, int]], few: Any) -> Section:
    of_year: Counter[str] = Counter()
    for _, _, year, n in rows:
        of_year[year] += n
    without = ["unknown"] if of_year.pop("unknown", 0) else []
    fullest = sorted(of_year, key=lambda y: (-of_year[y], y))[
        :MOST_YEARS
    ]  # de-identified dates may spread over centuries
    shown = [*without, *sorted(fullest)]
    cells: dict[tuple[str, str], dict[str, int]] = {}
    for modality, site, year, n in rows:
        cells.setdefault((modality, site), {})[year] = n
    largest = sorted(cells, key=lambda k: (-sum(cells[k].values()), k))[:MOST_ROWS]
    lines = [
        [escape(f"{m} · {s}"), *(few(cells[m, s].get(y, 0)) if y in cells[m, s] else "" for y in shown)]
        for m, s in sorted(largest)
    ]
    left = len(cells) - len(largest)
    made = table("Patients by modality, site and year", ("modality · site", *shown), lines, range(1, len(shown) + 1))
    years = len(of_year) - len(fullest)
    told = [f"{n} {what} with fewer patients are not shown" for n, what in ((left, "rows"), (years, "years")) if n]
    note = small("; ".join(told) + ".") if told else ""
    return Section(
        "when",
        "What there is, where and when",
        lead("Patients with at least one record.") + made + note,
        "Where and when",
    )


def _missing(about: Mapping[str, Any], few: Any, fewest: int) -> Section:
    sizes = {m: (n, few(n).replace("&lt;", "<"), "") for m, n in about["patients_by_modality"].items() if n >= fewest}
    shown = [
        (has, n) for has, n in about["missingness"].items() if n >= fewest and set(has.split("+")) <= sizes.keys()
    ][:MOST_PATTERNS]
    patterns = [(tuple(has.split("+")), n, f"{n:,}", "") for has, n in shown]
    plot = upset(patterns, sizes, {}, "Which modalities patients have") if patterns else ""
    rows = [[escape(has.replace("+", ", ")), few(n)] for has, n in about["missingness"].items()]
    return Section(
        "missing", "Who has what, and what is missing",
        lead("A column is a pattern: the modalities that so many patients have, and no others.")
        + plot + table("Patients by what they have", ("modalities", "patients"), rows[:MOST_ROWS], (1,)), "What is missing",
    )  # fmt: skip


def _people(rows: Sequence[tuple[str, str, int]], few: Any) -> Section:
    ages, sexes = sorted({r[1] for r in rows}), sorted({r[0] for r in rows})
    count = {(sex, years): n for sex, years, n in rows}
    lines = [[escape(y), *(few(count.get((s, y), 0)) for s in sexes)] for y in ages]
    made = table("Patients by age and sex", ("age in years", *sexes), lines, range(1, len(sexes) + 1))
    return Section("people", "Age and sex", made)


def _labels(about: Mapping[str, Any], fewest: int) -> Section | None:
    rows = []
    for name, cells in sorted(about["columns"].items()):
        words = [f"{escape(cell)} {n:,}" for cell, n in cells.items() if n >= fewest]
        words += ["rarer ones"] if len(words) < len(cells) else []  # a rare word may name a person as well as a count
        rows.append([escape(name.replace("_", " ")), ", ".join(words)])
    if not rows:
        return None
    made = table("Columns of words and their most frequent cells, in rows", ("column", "cells"), rows, wrap=(1,))
    return Section("labels", "Balance of possible labels", made, "Labels")


def _shift(found: Sequence[Shift], told: Told | None, fewest: int) -> Section | None:
    if not found and told is None:
        return None
    words = (
        f"From modalities, number of records, sex, age and years a classifier tells a patient's site with an area under the curve of "
        f"<strong>{told.value:.2f}</strong> (95% interval {told.low:.2f} to {told.high:.2f}; {told.n:,} patients of {told.sites} sites, "
        "five folds); 0.5 is not at all, and near 1 a model may learn the site instead of the disease."
        if told
        else "No two sites have patients enough to be told apart."
    )
    names = {"smd": "standardised mean difference", "tv": "total variation distance"}
    rows = [
        [
            escape(s.column.replace("_", " ")), escape(s.site), names[s.measure], f"{s.value:.2f}", f"{s.low:.2f} to {s.high:.2f}",
            f"{s.divergence:.3f}" if s.divergence == s.divergence else "", f"{s.n:,}", f"{s.others:,}",
        ]
        for s in found[:MOST_ROWS]
    ]  # fmt: skip
    head = ("column", "site", "measure", "value", "95% interval", "Jensen–Shannon, bits", "n", "n of the others")
    made = (
        table("Each site against the others, the largest differences first", head, rows, (3, 4, 5, 6, 7))
        if rows
        else ""
    )
    note = small(
        f"{max(len(found) - MOST_ROWS, 0)} smaller differences are not shown. An n below {fewest} is left out. A distance of words is "
        "above zero by chance alone: a small n makes it large. Intervals are not corrected for how many there are."
    )
    return Section("shift", "How the sites differ", lead(words) + made + note, "Between sites")
