"""The demonstration: a hospital's files → one report, by the library's public functions and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from . import __version__
from .adaptation import adapt
from .cohort import Cohort, ingest
from .doctor import memory, processor
from .schema import PolyclinicError
from .training import Recipe, Run, pretrain
from .trust import Comparison, Evidence, compare, evaluate, gather, write_report

RECIPE = "demo"
BUDGET_S = 225.0
"""No comparison is begun when so much of the whole way has passed; what is left out is listed in the report."""
SERVED = "finding"
LICENCES = (
    "Chest X-rays, notes and course: covid-chestxray-dataset (Cohen et al. 2020), only images under CC BY or CC BY-SA.",
    "Hippocampus MR and masks: Medical Segmentation Decathlon, task 4 (CC BY-SA 4.0).",
    "Bladder cancer omics and course: The Cancer Genome Atlas, open access, as tabulated for MCAT (Chen et al. 2021).",
    "ECG: PhysioNet samples of the WFDB Python package (ODC-By 1.0).",
    "EHR of synthetic people: Synthea (Apache-2.0).",
    "Clinic notes: MTS-Dialog (Ben Abacha et al. 2023, CC BY 4.0).",
)
ASKED = {
    "finding": "Does this patient have COVID-19?",
    "icu": "Was this patient admitted to intensive care?",
    "survival": "Which patients with bladder cancer die sooner?",
    "hippocampus": "Where are the anterior and the posterior hippocampus?",
    "xray_to_note": "Does a patient's X-ray find their own note?",
}
"""What the recipe's tasks ask, in this hospital's words."""

Report = Callable[[int, int, str], None]
Bar = Callable[[str], AbstractContextManager[Report]]
"""Opens a progress bar with a label; what it yields is called with done, all, what."""


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demonstration left behind."""

    report: Path
    summary: Path
    run: Run
    served: Run
    seconds: dict[str, float]

    @property
    def serve_command(self) -> str:
        """The command that serves the adapted model."""
        return f"polyclinic serve {self.served.path}"


@contextmanager
def no_bar(label: str) -> Iterator[Report]:
    """Shows nothing."""
    yield lambda done, total, what: None


class Clock:
    """Runs the parts one after the other, each behind its bar, and keeps how long each took."""

    def __init__(self, bar: Bar) -> None:
        self.bar, self.seconds, self.began = bar, dict[str, float](), time.monotonic()

    @property
    def passed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    @contextmanager
    def part(self, name: str) -> Iterator[Report]:
        """One part of the way."""
        began = time.monotonic()
        with self.bar(name) as report:
            yield report
        self.seconds[name] = round(time.monotonic() - began, 1)


def demo(hospital: str | Path, out: str | Path = "demo", *, quick: bool = False, bar: Bar = no_bar) -> Demo:
    """Ingest → pretrain → adapt → compare → report. What is there already is not made again.

    Args:
        hospital: a folder of files laid out as the embedded one's are.
        out: where the cohort, the runs, the report and its figures go.
        quick: a few steps of everything, to see that it works; its figures mean nothing.
        bar: opens a progress bar.
    Raises:
        PolyclinicError: the hospital is not there, or the disk is full.
    """
    place, source = Path(out), Path(hospital)
    if not source.is_dir():
        raise PolyclinicError(
            f"no folder {source}",
            "the embedded hospital, which comes with the source",
            "run it from the repository's root (`make demo`), or name another folder with --hospital",
        )
    clock = Clock(bar)
    with clock.part("ingest") as report:
        cohort = ingest(source, place / "cohort", progress=report)
    recipe = Recipe.load(RECIPE, ("stages.0.steps=4", "stages.0.warmup=1", "name=quick") if quick else ())
    with clock.part("pretrain") as report:
        run = pretrain(recipe, cohort, into=place / "runs", progress=report)
    with clock.part("adapt") as report:
        adapted = _adapt(run, cohort, 2 if quick else None, report)
    with clock.part("prove") as report:
        evidence = _examine(run, cohort, adapted, report)
    with clock.part("compare") as report:
        left = 5.0 if quick else max(BUDGET_S - clock.passed, 0.0)
        comparison = compare(
            run, cohort, steps=2 if quick else None, budget_s=left, adapted=list(adapted.values()), progress=report
        )
    with clock.part("report"):
        page = _report(place, run, cohort, comparison, evidence, adapted, clock.seconds)
    return Demo(page, page.with_name("summary.json"), run, adapted[SERVED], clock.seconds)


def _adapt(run: Run, cohort: Cohort, steps: int | None, report: Report) -> dict[str, Run]:
    """One adapted run a task, with all the labels there are."""
    tasks = [n for n, s in run.recipe.tasks.items() if s.kind != "retrieval"]
    made = {}
    for number, name in enumerate(tasks):
        report(number, len(tasks), name)
        made[name] = adapt(run, name, "lora", cohort=cohort, steps=steps, into=run.path / "adapted" / name)
    report(len(tasks), len(tasks), "")
    return made


def _examine(run: Run, cohort: Cohort, adapted: dict[str, Run], report: Report) -> list[Evidence]:
    found = []
    for number, (name, one) in enumerate([*adapted.items(), ("retrieval", run)]):
        report(number, len(adapted) + 1, name)
        found.append(evaluate(one, cohort))
    report(len(adapted) + 1, len(adapted) + 1, "")
    return found


def _report(
    place: Path,
    run: Run,
    cohort: Cohort,
    comparison: Comparison,
    evidence: list[Evidence],
    adapted: dict[str, Run],
    seconds: dict[str, float],
) -> Path:
    dense = next((r for n, r in adapted.items() if run.recipe.tasks[n].kind == "segmentation"), None)
    cpu = processor()
    inputs = gather(
        run,
        cohort,
        comparison=comparison,
        evidence=evidence,
        segmentation=dense,
        tasks={name: asked for name, asked in ASKED.items() if name in run.recipe.tasks},
        title="One hospital's records, one backbone: what it can and cannot do",
        licences=LICENCES,
        machine=f"{cpu['model']}, {cpu['usable']} cores, {memory()['total_gib']} GiB; polyclinic {__version__}",
        seconds=seconds,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    return write_report(place / "report.html", inputs)
