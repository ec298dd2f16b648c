"""Patients with a CT, a report and two ECGs within thirty days, of a catalogue of a million patients and ten million records.

The catalogue is synthetic and lies as `ingest` lays it: twenty parts, each of records, sources and rejected files. A patient has one
to four episodes of illness; records come around them. Ours is `Cohort.query`, from the files, as anybody would ask. The peer is
pandas: it reads the columns and kinds that it needs from the same derived Parquet file, drops whoever lacks one of the three, and
counts in the sorted rest; a second figure gives it the frame in memory for nothing. Both in turn in one process; peak memory is of a
process of its own each (the kernel's high-water mark of resident memory).
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from polyclinic.cohort import Cohort
from polyclinic.cohort.catalogue import FORMAT
from polyclinic.cohort.parts import PARTS

PATIENTS, A_PATIENT, PARTS_WRITTEN, ROUNDS = 1_000_000, 10, 20, 9
DAYS = 30

QUESTION = f"""
with ct as (select patient, time from records where modality = 'volume' and kind like 'CT%'),
ecg as (select patient, time from records where modality = 'signal' and kind like 'ECG%' and patient in (select patient from ct)),
-- Of two ECGs within so many days, two that follow each other are too.
pairs as (select patient, lag(time) over (partition by patient order by time) as first, time as last from ecg),
trios as (select patient, least(first, ct.time) as first, greatest(last, ct.time) as last from pairs join ct using (patient)
    where last - first <= interval {DAYS} days and ct.time between last - interval {DAYS} days and first + interval {DAYS} days)
select distinct patient from records join trios using (patient)
where modality = 'text' and time between last - interval {DAYS} days and first + interval {DAYS} days order by patient
"""

DRAWN = """
create or replace temp table drawn as
with numbers as (select i, hash(i) as h, hash(i + 7777777777777) as g from range({first}, {last}) as t(i)),
placed as (select *, g % {patients} as p, (h % 1000) / 1000 as u, (h >> 24) % (1 + g % {patients} % 4) as episode from numbers)
select md5(i::varchar) as id, 'P' || lpad(p::varchar, 8, '0') as patient,
    timestamp '2012-01-01' + to_hours((hash(p * 8 + episode) % 90000 + (h >> 32) % 1200)::bigint) as time,
    case when u < 0.3 then 'table' when u < 0.62 then 'text' when u < 0.78 then 'image' when u < 0.85 then 'volume'
        else 'signal' end as modality,
    case when u < 0.1 then 'table people' when u < 0.3 then 'table laboratory' when u < 0.62 then 'report' when u < 0.78 then 'CR chest PA'
        when u < 0.82 then 'CT chest' when u < 0.85 then 'MR head' else 'ECG 12-lead' end as kind,
    'S' || g % 12 as site, case when u >= 0.62 then 'device ' || g % 40 end as device,
    case when u < 0.1 then '{{"age": ' || 20 + g % 70 || ', "finding": "' || (case when g % 9 = 0 then 'pneumonia' else 'none' end)
        || '", "sex": "' || (case when p % 2 = 0 then 'F' else 'M' end) || '"}}' else '{{"sequence": ' || h % 500 || '}}' end as attributes
from placed
"""


def write(folder: Path, patients: int) -> None:
    """A catalogue with the parts that `ingest` writes."""
    import duckdb

    rows = patients * A_PATIENT
    (folder / "parts").mkdir(parents=True)
    (folder / "cohort.json").write_text(json.dumps({"format": FORMAT}))
    with duckdb.connect() as connection:
        for turn in range(PARTS_WRITTEN):
            place = folder / f"parts/{turn:06d}"
            place.mkdir()
            first, last = (rows * t // PARTS_WRITTEN for t in (turn, turn + 1))
            connection.execute(DRAWN.format(first=first, last=last, patients=patients))
            read = "'/data' as root, case when modality = 'table' then kind || '.csv' else patient || '/' || id end as unit, '1' as version"
            given = {
                "records": f"select *, unit as uri, false as mask from (select *, {read}, {turn} as turn from drawn)",
                "sources": f"select distinct unit as uri, 'x' as stamp, * from (select {read}, {turn} as turn from drawn)",
                "rejected": f"select {read}, {turn} as turn, unit as uri, 'an empty file' as found from drawn limit 10",
            }
            for name, schema in PARTS.items():
                connection.register("typed", schema.empty_table())
                union = f" union all by name {given[name]}" if name in given else ""
                connection.execute(f"copy (select * from typed{union}) to '{place}/{name}.parquet' (compression zstd)")


def ours(folder: Path) -> list[str]:
    return Cohort.open(folder).query(QUESTION)["patient"].to_pylist()


def frame(folder: Path) -> Any:
    """What pandas has to know: patient, time and which of the three."""
    import pandas as pd

    Cohort.open(folder).query("select 1 from patients limit 1")
    (file,) = folder.glob("derived/*/records.parquet")
    table = pd.read_parquet(
        file,
        columns=["patient", "time", "modality", "kind"],
        filters=[("modality", "in", ["volume", "signal", "text"])],
    )
    ct, ecg = table["kind"].str.startswith("CT"), table["kind"].str.startswith("ECG")
    what = ct * 1 + ecg * 2 + (table["modality"] == "text") * 4
    return table.assign(what=what.astype("int8"))[["patient", "time", "what"]][(what > 0) & table["time"].notna()]


def peer(table: Any) -> list[str]:
    """The same question: whoever lacks one of the three goes first, then a window runs over the sorted rest."""
    import numpy as np
    import pandas as pd

    codes, names = pd.factorize(table["patient"])
    counts = [np.bincount(codes[table["what"].to_numpy() == w], minlength=len(names)) for w in (1, 2, 4)]
    kept = (counts[0] > 0) & (counts[1] > 1) & (counts[2] > 0)
    rest = table.assign(code=codes)[kept[codes]].sort_values(["code", "time"], kind="stable")
    code, at, what = rest["code"].to_numpy(), rest["time"].to_numpy(), rest["what"].to_numpy()
    seconds = at.astype("datetime64[s]").astype(np.int64)
    placed = code * (4 * 10**9) + seconds  # apart by more than any time: one search finds every window's end
    end = np.searchsorted(placed, placed + DAYS * 86400, side="right")
    fits = np.ones(len(placed), dtype=bool)
    for w, least in ((1, 1), (2, 2), (4, 1)):
        total = np.concatenate([[0], np.cumsum(what == w)])
        fits &= total[end] - total[:-1] >= least
    return sorted(set(names[code[fits]]))


def peak_mb(name: str, folder: Path) -> float:
    """The most memory that a process of its own holds while it answers."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.catalogue", "--alone", name, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def alone(name: str, folder: Path) -> None:
    ours(folder) if name == "ours" else peer(frame(folder))
    # Not `ru_maxrss`: it is handed on over fork and exec, and would be the parent's.
    print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)  # type: ignore[index]


def timed(ask: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    answer = ask()
    return time.perf_counter() - begun, answer


def measure(folder: Path, patients: int, rounds: int) -> None:
    derived, _ = timed(lambda: Cohort.open(folder).query("select 1 from patients limit 1"))
    records = Cohort.open(folder).query("select count(*) as n from records")["n"][0].as_py()
    held = frame(folder)
    asks: dict[str, Callable[[], list[str]]] = {
        "ours": lambda: ours(folder), "pandas": lambda: peer(frame(folder)), "pandas, in memory": lambda: peer(held),
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in asks}
    answers = {name: ask() for name, ask in asks.items()}
    for _ in range(rounds):
        for name, ask in asks.items():
            seconds[name].append(timed(ask)[0])
    assert answers["ours"] == answers["pandas"] == answers["pandas, in memory"], "the answers differ"
    peaks = {name: peak_mb(name, folder) for name in ("ours", "pandas")}
    print(f"{records:,} records of {patients:,} patients; deriving once after ingest took {derived:.1f} s")
    print(f"{'':20}{'median s':>10}{'quartiles':>16}{'peak MiB':>10}")
    for name, found in seconds.items():
        low, middle, high = statistics.quantiles(found, n=4)
        print(f"{name:20}{middle:10.3f}{f'{low:.3f}–{high:.3f}':>16}{peaks.get(name, float('nan')):10.0f}")
    ours_s, peer_s = (statistics.median(seconds[name]) for name in ("ours", "pandas"))
    print(
        json.dumps(
            {
                "name": "catalogue", "ours": ours_s, "peer": peer_s, "unit": "s", "ratio": peer_s / ours_s, "n": rounds,
                "share_of_peak": None, "peak_mib": peaks,
                "equal_output": f"the same {len(answers['ours']):,} patients",
            }
        )
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="twenty thousand patients: does it run?")
    parser.add_argument("--keep", type=Path, help="write the catalogue here, or use the one that is there")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        alone(given.alone[0], Path(given.alone[1]))
        return
    patients, rounds = (20_000, 3) if given.quick else (PATIENTS, ROUNDS)
    with tempfile.TemporaryDirectory() as made:
        folder = given.keep or Path(made) / "cohort"
        if not (folder / "cohort.json").exists():
            write(folder, patients)
        measure(folder, patients, rounds)


if __name__ == "__main__":
    main()
