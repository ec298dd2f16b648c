"""Who is in a catalogue, counted by the database: what `catalogue.describe` counts of records in memory, of any number of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..records.events import KIND
from ..schema import Modality
from .snapshot import IS_MASK, MANY

MOST_CELLS, SHOWN_CELLS, SHOWN_SITES = 60, 8, 20
"""A column of more different words than the first is no label; of a column, and of the sites, so many are shown."""
CELLS = f"""select patient, site, cell.key as name, cell.atom->>'$' as said from records, json_each(attributes) as cell
    where modality = 'table' and kind <> '{KIND}' and cell.type = 'VARCHAR'"""


def counts(connection: Any, sql: str) -> dict[str, Any]:
    """The answer's first column → its second."""
    return dict(connection.execute(sql).fetchall())


def described(connection: Any) -> dict[str, Any]:
    """As `Cohort.describe`.

    Args:
        connection: one of `Cohort.asking`.
    """
    ask = lambda what, condition="true": counts(
        connection, f"select {what}, count(*) as n from records where {condition} group by 1 order by n desc, 1"
    )
    having = ", ".join(f"count(*) filter ({many} > 0)" for many in MANY.values())
    patients, records, *by_modality = connection.execute(
        f"select count(*) filter ({' + '.join(MANY.values())} > 0), coalesce(sum(records), 0)::bigint, {having} from patients"
    ).fetchone()
    sex = counts(
        connection, "select sex, count(*) as n from patients where sex is not null group by 1 order by n desc, 1"
    )
    ages = np.sort(connection.execute("select age from patients where age is not null").fetchnumpy()["age"])
    quantile = lambda q: float(ages[min(len(ages) - 1, int(q * len(ages)))]) if len(ages) else None
    reasons = counts(connection, "select found, count(*) as n from rejected group by 1 order by n desc, 1")
    sites = f"""select site, count(distinct patient) as n from records where coalesce(site, '') <> ''
        group by 1 order by n desc, 1 limit {SHOWN_SITES}"""
    return {
        "patients": patients,
        "records": records,
        "modality": ask("modality", f"not {IS_MASK}"),
        "patients_by_modality": {m.value: n for m, n in zip(MANY, by_modality, strict=True) if n},
        "kind": ask("kind"),
        "missingness": missingness(connection),
        "masks": sum(ask("1", "contains(attributes, '\"mask_of\"') and (attributes->>'mask_of') <> ''").values()),
        "sex": sex | {"unknown": patients - sum(sex.values())},
        "age": {"n": len(ages), "q05": quantile(0.05), "median": quantile(0.5), "q95": quantile(0.95)},
        "patients_by_site": counts(connection, sites),
        "columns": columns(connection),
        "rejected": sum(reasons.values()),
        "rejected_reasons": reasons,
    }


def missingness(connection: Any) -> dict[str, int]:
    """Pattern of modalities, such as `image+text` → how many patients have just those."""
    words = ", ".join(f"case when {MANY[m]} > 0 then '{m.value}' end" for m in sorted(Modality, key=lambda m: m.value))
    found = counts(
        connection, f"select concat_ws('+', {words}) as has, count(*) as n from patients group by 1 order by n desc, 1"
    )
    return {pattern: n for pattern, n in found.items() if pattern}


def columns(connection: Any) -> dict[str, dict[str, int]]:
    """Of each column of words of the tables, the most frequent cells and how many rows have them."""
    rows = connection.execute(
        f"""with cells as (select name, said, count(*) as n from ({CELLS}) group by 1, 2)
        select name, said, n from cells
        qualify count(*) over (partition by name) <= {MOST_CELLS}
        and row_number() over (partition by name order by n desc, said) <= {SHOWN_CELLS} order by name, n desc, said"""
    ).fetchall()
    found: dict[str, dict[str, int]] = {}
    for name, cell, n in rows:
        found.setdefault(name, {})[cell] = n
    return found
