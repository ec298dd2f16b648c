"""The long run: the demonstration's recipe on all public records of `shared/data`, without a limit of time.

    .venv/bin/python examples/hospital/make.py --source ../shared/data --out whole/hospital --whole
    .venv/bin/python examples/whole_hospital.py --hospital whole/hospital --out whole

Most of these records may be read but not published again: keep what it makes to yourself. docs/results.md has the figures.
"""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path

from polyclinic.adaptation import adapt
from polyclinic.cohort import ingest
from polyclinic.demo import ASKED, RECIPE
from polyclinic.training import Recipe, pretrain
from polyclinic.trust import compare, evaluate, gather, write_report


def main() -> None:
    """Ingest → pretrain → adapt → compare → report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospital", type=Path, required=True, help="what make.py --whole laid out")
    parser.add_argument("--out", type=Path, required=True, help="where the cohort, the runs and the report go")
    parser.add_argument("--steps", type=int, default=600, help="of pretraining")
    arguments = parser.parse_args()
    tell = lambda done, total, what: print(f"{done}/{total} {what}", flush=True)
    cohort = ingest(arguments.hospital, arguments.out / "cohort")
    recipe = Recipe.load(RECIPE, (f"stages.0.steps={arguments.steps}", "name=whole"))
    run = pretrain(recipe, cohort, into=arguments.out / "runs", progress=tell)
    adapted = {
        name: adapt(run, name, "lora", cohort=cohort) for name, spec in recipe.tasks.items() if spec.kind != "retrieval"
    }
    comparison = compare(run, cohort, adapted=list(adapted.values()), progress=tell)
    print(comparison)
    evidence = [evaluate(one, cohort) for one in (*adapted.values(), run)]
    inputs = gather(
        run, cohort, comparison=comparison, evidence=evidence, segmentation=adapted["hippocampus"], tasks=ASKED,
        title="All public records, one backbone", made=datetime.now().astimezone().strftime("%Y-%m-%d"),
    )  # fmt: skip
    print(write_report(arguments.out / "report.html", inputs))


if __name__ == "__main__":
    main()
