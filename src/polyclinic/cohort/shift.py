"""How the sites of a catalogue differ: column by column, and all at once by how well a classifier tells them apart.

A number of a site is held against that of all other sites by the standardised mean difference, (a - b) / sqrt((var a + var b) / 2), with
the interval of Hedges and Olkin (1985, ch. 5); a column of words by the total variation distance and the Jensen–Shannon divergence
(bits), with an interval by resampling both sides. Distances of words are never negative, and above zero by chance: their n says how far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..records.events import KIND
from .population import CELLS
from .snapshot import IS_NUMBER, MANY

MOST_CATEGORIES, DRAWS, MOST_PATIENTS, FOLDS = 60, 400, 20_000, 5

PEOPLE = "select patient, min(site) as site from records where coalesce(site, '') <> '' group by patient having count(distinct site) = 1"
"""Patients of one site; who was seen at several is held against none."""
NUMBERS = f"""select patient, name, avg(number) as number from (
    select patient, cell.key as name, try_cast(cell.atom as double) as number from records, json_each(attributes) as cell
        where modality = 'table' and kind <> '{KIND}' and cell.type {IS_NUMBER}
    union all select patient, 'age', age from patients where age is not null) group by patient, name"""
WORDS = f"select distinct patient, name, said from ({CELLS}) union select patient, 'sex', sex from patients where sex is not null"


@dataclass(frozen=True, slots=True)
class Shift:
    """One column of one site against all others.

    Args:
        column, site: which.
        measure: "smd" (standardised mean difference) or "tv" (total variation distance).
        value, low, high: with its 95% interval.
        n, others: patients of the site and of the others in whom it is known.
        divergence: Jensen–Shannon, in bits; NaN of a number.
    """

    column: str
    site: str
    measure: Literal["smd", "tv"]
    value: float
    low: float
    high: float
    n: int
    others: int
    divergence: float = math.nan


@dataclass(frozen=True, slots=True)
class Told:
    """How well the sites are told apart: the area under the curve, one against the rest, averaged over sites; 0.5 is not at all."""

    value: float
    low: float
    high: float
    n: int
    sites: int


def mean_difference(a: tuple[int, float, float], b: tuple[int, float, float]) -> tuple[float, float, float]:
    """The standardised mean difference with its 95% interval; NaN where neither side varies.

    Args:
        a, b: of each side n, mean and variance (n - 1).
    """
    spread = math.sqrt((a[2] + b[2]) / 2)
    if not spread > 0:
        return math.nan, math.nan, math.nan
    value = (a[1] - b[1]) / spread
    error = math.sqrt((a[0] + b[0]) / (a[0] * b[0]) + value**2 / (2 * (a[0] + b[0])))
    return value, value - 1.96 * error, value + 1.96 * error


def distances(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Total variation distance and Jensen–Shannon divergence in bits of two histograms (k,) over the same categories."""
    p, q = a / a.sum(axis=-1, keepdims=True), b / b.sum(axis=-1, keepdims=True)
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = sum(np.nansum(np.where(x > 0, x * np.log2(x / middle), 0.0), axis=-1) for x in (p, q)) / 2
    return np.abs(p - q).sum(axis=-1) / 2, bits


def word_difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float, float]:
    """Total variation distance, its 95% interval by resampling both sides, and the Jensen–Shannon divergence."""
    random = np.random.default_rng(0)
    value, bits = distances(a, b)
    drawn = [random.multinomial(int(x.sum()), x / x.sum(), size=DRAWS) for x in (a, b)]
    low, high = np.quantile(distances(*drawn)[0], (0.025, 0.975))
    return float(value), float(min(low, value)), float(max(high, value)), float(bits)


def shifts(connection: Any, fewest: int = 5) -> list[Shift]:
    """Every column of every site against the other sites, those that differ most first.

    Args:
        connection: one of `Cohort.asking`, which names records and patients.
        fewest: patients that both sides must have.
    """
    numbers = connection.execute(
        f"""select name, site, count(*), avg(number), coalesce(var_samp(number), 0) from ({NUMBERS}) join ({PEOPLE}) using (patient)
        group by 1, 2 order by 1, 2"""
    ).fetchall()
    words = connection.execute(
        f"""select name, site, said, count(*) from ({WORDS}) join ({PEOPLE}) using (patient) group by all order by 1, 2, 3"""
    ).fetchall()
    found = [
        s
        for name in sorted({r[0] for r in numbers})
        for s in _of_numbers(name, [r[1:] for r in numbers if r[0] == name])
    ]
    for name in sorted({r[0] for r in words}):
        rows = [r[1:] for r in words if r[0] == name]
        own = all(site == said for site, said, _ in rows)  # the column that the sites were read from
        if 1 < len({r[1] for r in rows}) <= MOST_CATEGORIES and not own:
            found += _of_words(name, rows)
    kept = [s for s in found if min(s.n, s.others) >= max(fewest, 2) and math.isfinite(s.value)]
    return sorted(kept, key=lambda s: (-abs(s.value), s.column, s.site))


def _of_numbers(name: str, rows: list[tuple[str, int, float, float]]) -> list[Shift]:
    found = []
    for site, n, mean, variance in rows:
        rest = [r[1:] for r in rows if r[0] != site]
        others = sum(r[0] for r in rest)
        if others < 2:
            continue
        middle = sum(r[0] * r[1] for r in rest) / others
        spread = sum((r[0] - 1) * r[2] + r[0] * (r[1] - middle) ** 2 for r in rest) / (others - 1)
        found.append(
            Shift(name, site, "smd", *mean_difference((n, mean, variance), (others, middle, spread)), n, others)
        )
    return found


def _of_words(name: str, rows: list[tuple[str, str, int]]) -> list[Shift]:
    sites, cells = sorted({r[0] for r in rows}), sorted({r[1] for r in rows})
    count = np.zeros((len(sites), len(cells)))
    for site, cell, n in rows:
        count[sites.index(site), cells.index(cell)] = n
    found = []
    for number, site in enumerate(sites):
        mine, rest = count[number], count.sum(axis=0) - count[number]
        if rest.sum():
            value, low, high, bits = word_difference(mine, rest)
            found.append(Shift(name, site, "tv", value, low, high, int(mine.sum()), int(rest.sum()), bits))
    return found


def told_apart(connection: Any, fewest: int = 5, seed: int = 0) -> Told | None:
    """How well a patient's site is told from what the catalogue says of the patient: modalities, how many records, sex, age, year.

    Boosted trees, to which what is unknown is a value of its own, five folds; the interval is by resampling patients. Devices are left
    out: they are the site by another name.

    Args:
        connection: one of `Cohort.asking`, which names records and patients.
        fewest: patients a site must have to take part, at least one a fold.
        seed: of the folds, and of which patients, where there are more than 20,000.
    Returns:
        None where there are not two such sites.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    rows = connection.execute(
        f"""select site, {", ".join(MANY.values())}, records, age, case sex when 'F' then 1 when 'M' then 0 end as female,
        year(first) as year, date_diff('day', first, last) as days from patients join ({PEOPLE}) using (patient)
        qualify count(*) over (partition by site) >= {max(fewest, FOLDS)} order by hash(patient), patient limit {MOST_PATIENTS}"""
    ).fetchall()
    sites, labels = np.unique([r[0] for r in rows], return_inverse=True)
    if len(sites) < 2 or min(np.bincount(labels)) < FOLDS:
        return None
    data = np.array([[-1 if v is None else v for v in r[1:]] for r in rows], dtype=float)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    trees = HistGradientBoostingClassifier(max_iter=40, random_state=seed)
    chance: np.ndarray = np.asarray(
        cross_val_predict(trees, data, labels, cv=folds, method="predict_proba")
    )  # (n, sites)
    area = lambda n: float(
        np.mean(
            [roc_auc_score(labels[n] == k, chance[n, k]) for k in range(len(sites)) if 0 < (labels[n] == k).mean() < 1]
        )
    )
    random = np.random.default_rng(seed)
    drawn = [area(random.integers(0, len(rows), len(rows))) for _ in range(100)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Told(area(np.arange(len(rows))), float(low), float(high), len(rows), len(sites))
