"""Who was studied: which records, of whom, what is missing, and what was set aside with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ....schema import Modality
from ..inputs import ReportInputs
from ..page import Section, details, lead, small, table, verbatim
from ..plots import upset
from ..summary import Summary
from .words import capital, joined, plain, read_as

MOST_PATTERNS, MOST_SITES, MOST_SET_ASIDE = 10, 8, 40
"""Shown at once; what is more stands in a table to open, or is counted."""
TOGETHER = lead(
    "Each column is a group of patients: the filled dots are the kinds of records that they have, the bar above is "
    "how many they are. The bars on the left are all patients with that kind of record. Nothing is made up for what a "
    "patient lacks: the model reads what is there."
)
SITES = "as they stand in the files: a site spelled in two ways counts twice, and a patient seen at two counts at both"


def population(inputs: ReportInputs, summary: Summary) -> Section | None:
    """The cohort's picture."""
    about = inputs.cohort
    if not about.get("patients"):
        return None
    people = f'<div class="grid2"><div>{_sex_and_age(about, summary)}</div><div>{_sites(inputs, summary)}</div></div>'
    inside = _tiles(inputs, summary) + _together(inputs, about, summary) + people + _kinds(about, summary)
    return Section("population", "Who was studied", inside)


def _share(summary: Summary, key: str, part: int, whole: int) -> str:
    share = part / whole if whole else 0.0
    words = "under 1%" if 0 < share < 0.01 else "over 99%" if 0.99 < share < 1 else f"{share:.0%}"
    return summary.shown(key, share, words, what="share of the cohort's patients")


def _tiles(inputs: ReportInputs, summary: Summary) -> str:
    told = {
        "patients": ("cohort.patients", inputs.cohort["patients"]),
        "records": ("cohort.records", inputs.cohort.get("records")),
        "training patients": ("split.train", inputs.sides[0]),
        "test patients": ("split.test", inputs.sides[1]),
        "files set aside": ("cohort.set_aside", len(inputs.rejected)),
    }
    tiles = "".join(
        f"<div><dt>{name}</dt><dd>{summary.shown(key, n)}</dd></div>"
        for name, (key, n) in told.items()
        if n is not None
    )
    return f'<dl class="tiles">{tiles}</dl>'


def _together(inputs: ReportInputs, about: Mapping[str, Any], summary: Summary) -> str:
    """Which modalities patients have together, as a plot and as tables."""
    has: Mapping[str, int] = about.get("patients_by_modality", {})
    every: Mapping[str, int] = about.get("missingness", {})
    if not has or not every:
        return ""
    sizes = {}
    for m in (m.value for m in Modality if m.value in has):
        key = f"cohort.modality.{m}"
        sizes[m] = (has[m], summary.count(key, has[m], what="patients"), key)
    patterns = []
    for signature, n in sorted(every.items(), key=lambda pair: -pair[1]):
        key = f"cohort.pattern.{signature}"
        patterns.append((signature.split("+"), n, summary.count(key, n, what="patients"), key))
    names, _, most, _ = patterns[0]
    whole = summary.count("cohort.patients", about["patients"])
    said = f"Which records patients have together; most often {plain(names, inputs.words)}, {most} of {whole} patients"
    plot = upset(patterns[:MOST_PATTERNS], sizes, {m: capital(read_as(m, inputs.words)) for m in sizes}, said)
    rows = [[capital(joined(names, inputs.words)), summary.html(key)] for names, _, _, key in patterns]
    listed = table("Patients with each combination of records", ("they have", "patients"), rows, (1,))
    shown = "" if len(patterns) <= MOST_PATTERNS else "<p>Rarer combinations stand in the list below.</p>"
    return (
        f"<h3>Which records patients have together</h3>{TOGETHER}{plot}{shown}"
        f"{_lacking(inputs, about['patients'], sizes, summary)}"
        f"{details('Every combination, as a list', listed)}"
    )


def _lacking(inputs: ReportInputs, whole: int, sizes: Mapping[str, tuple[int, str, str]], summary: Summary) -> str:
    rows = []
    for m, (n, _, key) in sizes.items():
        lacks = summary.shown(f"cohort.without.{m}", whole - n, what="patients")
        share = _share(summary, f"cohort.without_share.{m}", whole - n, whole)
        rows.append([escape(capital(read_as(m, inputs.words))), summary.html(key), lacks, share])
    head = ("kind of record", "have it", "lack it", "share lacking")
    return table("How many patients have each kind of record", head, rows, (1, 2, 3))


def _sex_and_age(about: Mapping[str, Any], summary: Summary) -> str:
    names = {"F": "female", "M": "male", "unknown": "not recorded"}
    rows = []
    for sex, n in about.get("sex", {}).items():
        share = _share(summary, f"cohort.sex_share.{sex}", n, about["patients"])
        called = names.get(sex) or verbatim(sex)
        rows.append([called, summary.shown(f"cohort.sex.{sex}", n, what="patients"), share])
    said = table("Patients by sex", ("sex", "patients", "share"), rows, (1, 2)) if rows else ""
    return f"<h3>Sex and age</h3>{said}{_age(about, summary)}"


def _age(about: Mapping[str, Any], summary: Summary) -> str:
    age: Mapping[str, Any] = about.get("age", {})
    if not age.get("n"):
        return "<p>No patient's age is recorded.</p>"
    low, middle, high = (
        summary.shown(f"cohort.age.{q}", age[q], f"{age[q]:.0f}", what="years") for q in ("q05", "median", "q95")
    )
    known = summary.shown("cohort.age.n", age["n"], what="patients")
    lacking = about["patients"] - age["n"]
    others = f", that of {summary.shown('cohort.age.unknown', lacking, what='patients')} is not" if lacking > 0 else ""
    return (
        f"<p>The median age is {middle} years; nine in ten patients are between {low} and {high}. The age of {known} "
        f"patients is recorded{others}.</p>"
    )


def _sites(inputs: ReportInputs, summary: Summary) -> str:
    if not inputs.sites:
        return "<h3>Sites</h3><p>No record names the site that it comes from.</p>"
    rows = [[verbatim(s), summary.shown(f"cohort.site.{s}", n, what="patients")] for s, n in inputs.sites.items()]
    count = summary.shown("cohort.sites", len(rows), what="sites")
    shown = table("Patients by site, the largest first", ("site", "patients"), rows[:MOST_SITES], (1,))
    rest = rows[MOST_SITES:]
    more = (
        details("The other sites", table("Patients of the other sites", ("site", "patients"), rest, (1,)))
        if rest
        else ""
    )
    return f"<h3>Sites</h3>{shown}{more}{small(f'Records name {count} sites, {SITES}.')}"


def _kinds(about: Mapping[str, Any], summary: Summary) -> str:
    kinds: Mapping[str, int] = about.get("kind", {})
    rows = [[verbatim(k), summary.shown(f"cohort.kind.{k}", n, what="records")] for k, n in kinds.items()]
    inside = table("Records of each kind", ("kind", "records"), rows, (1,))
    return details("What kinds of records there are", inside) if rows else ""


def set_aside(inputs: ReportInputs, summary: Summary) -> Section | None:
    """What was not used, each with its reason."""
    if not inputs.rejected:
        return None
    rows = [[verbatim(r.uri), verbatim(r.found), verbatim(r.expected), verbatim(r.remedy)] for r in inputs.rejected]
    count = summary.shown("cohort.set_aside", len(rows))
    more = ""
    if len(rows) > MOST_SET_ASIDE:
        left = summary.shown("cohort.set_aside_not_shown", len(rows) - MOST_SET_ASIDE)
        more = f"<p>{left} more stand in the catalogue's table of rejected files.</p>"
    head = ("file", "what was found", "what was expected", "what to do")
    told = lead(f"Files that could not be used: {count}. None was dropped in silence, and none stopped the rest.")
    inside = table("Files that were set aside, and why", head, rows[:MOST_SET_ASIDE], wrap=(0, 1, 2, 3))
    return Section("set-aside", "What was set aside, and why", told + inside + more, "What was set aside")
