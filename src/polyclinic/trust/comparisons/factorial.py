"""Recipes × seeds at equal budgets: which pretraining serves a task best, by how much, and how sure that is.

Every recipe is pretrained and adapted once for each seed, and all answer about the same test patients (`seeded`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...adaptation import adapt
from ...adaptation.adapt import Method
from ...cohort import Cohort
from ...harmonise.unread import Unread, listed
from ...inference import predict
from ...schema import Figure
from ...tasks import Predictions
from ...training import Recipe, Run, pretrain
from ...training.beginning import prepare
from ...training.budget import Budget, Cost, spent, stage_costs, within
from ...training.recipe import differing
from ...training.run import write_json, write_text
from ...training.taxonomy import taxonomy
from ..measures.figures import usable
from ..measures.intervals import DRAWS, EvidenceError
from ..measures.metrics import COMPARED, PRIMARY
from ..measures.written import figure_of, plain, signed, unsigned
from .factorial_plot import plot
from .kept_answers import answers_of, key_of, told
from .seeded import drawn

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Arm:
    """One recipe.

    Args:
        recipe: its name.
        place: in the taxonomy, in words.
        steps: of pretraining.
        tokens, flops: what these cost, each seed.
        figure: the task's metric, mean over the seeds.
        each: of each seed.
        behind: the winner's metric minus this one's, paired; None for the winner.
        seconds: of pretraining and adapting, all seeds together.
    """

    recipe: str
    place: str
    steps: int
    tokens: float
    flops: float
    figure: Figure
    each: tuple[float, ...]
    behind: Figure | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Factorial:
    """The whole comparison; the best recipe first.

    Args:
        task, metric, method: what was asked, by what it was judged, how the runs were adapted.
        labels: labelled patients that each was adapted with; None for all.
        budget: each run's; None where each recipe's own steps were taken.
        seeds: of weights, batches and heads.
        arms: a recipe each.
        ahead: of how many seeds the winner beat the second; 0 where there is no second.
        note: what a reader must know.
        unread: the test patients whom some run could not read, and why.
    """

    task: str
    metric: str
    method: str
    labels: int | None
    budget: Budget | None
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    ahead: int
    note: str = ""
    unread: tuple[Unread, ...] = ()

    @property
    def margin(self) -> Figure | None:
        """The winner's metric minus the second's, paired; None for one recipe."""
        return self.arms[1].behind if len(self.arms) > 1 else None

    def verdict(self) -> str:
        """Who won, by how much, and whether the interval shows it."""
        if (margin := self.margin) is None:
            return f"{self.arms[0].recipe} was compared with nothing."
        first, second = self.arms[0].recipe, self.arms[1].recipe
        sure = "" if margin.low > 0 else ", which does not exclude that they are equal"
        return (
            f"{first} is ahead of {second} by {signed(margin)} {self.metric}{sure}; "
            f"ahead in {self.ahead} of {len(self.seeds)} seeds. The winner was chosen by these same figures: its margin is an upper guess."
        )

    def markdown(self) -> str:
        """The table, with the verdict below."""
        budget = f"{self.budget.amount:.3g} {self.budget.unit} a run" if self.budget else "each recipe's own steps"
        count = "all labels" if self.labels is None else f"{self.labels} labels"
        first = self.arms[0].figure
        lines = [
            f"`{self.task}` ({self.metric}) by {self.method}, {count}; {budget}; seeds {', '.join(map(str, self.seeds))}; "
            f"n = {first.n} test patients (split {first.split[:12]}).", "",
            f"| recipe | where it stands | steps | tokens | FLOPs | {self.metric} (95% interval) | seeds | behind the winner |",
            "|---|---|---:|---:|---:|---|---|---|",
        ]  # fmt: skip
        lines += [
            f"| {arm.recipe} | {arm.place} | {arm.steps} | {arm.tokens:.3g} | {arm.flops:.3g} | {unsigned(arm.figure)} "
            f"| {', '.join(f'{v:.3f}' for v in arm.each)} | {signed(arm.behind) if arm.behind else '–'} |"
            for arm in self.arms
        ]
        aside = [f"- {line.strip()}" for line in listed(self.unread, "comparison.json")]
        notes = [*([self.note] if self.note else []), *(["", *aside] if aside else [])]
        return "\n".join([*lines, "", self.verdict(), *notes, ""])

    def write(self, folder: Path) -> None:
        """Write `comparison.md`, `comparison.json` and `comparison.svg` into a folder."""
        write_text(folder / "comparison.md", self.markdown())
        write_json(folder / "comparison.json", plain(asdict(self)))
        rows = [(a.recipe, a.figure, a.each) for a in self.arms]
        write_text(
            folder / "comparison.svg", plot(rows, f"{self.task}: {self.metric}, mean of {len(self.seeds)} seeds")
        )

    @classmethod
    def open(cls, folder: Path) -> Factorial:
        """What `write` wrote."""
        data = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
        each = lambda values: tuple(float("nan") if v is None else v for v in values)
        arms = [
            Arm(**{**a, "figure": figure_of(a["figure"]), "behind": figure_of(a["behind"]), "each": each(a["each"])})
            for a in data["arms"]
        ]
        budget = Budget(**data["budget"]) if data["budget"] else None
        unread = tuple(Unread(**one) for one in data.get("unread", ()))
        return cls(**{**data, "arms": tuple(arms), "seeds": tuple(data["seeds"]), "budget": budget, "unread": unread})


def factorial(
    recipes: Sequence[Recipe | str | Path], cohort: Cohort | str | Path, task: str, *, into: str | Path, seeds: int = 3,
    budget: Budget | None = None, method: Method = "probe", labels: int | None = None, draws: int = DRAWS,
    progress: Progress | None = None,
) -> Factorial:  # fmt: skip
    """Pretrain and adapt every recipe with every seed, and compare their answers; what is finished is not made again.

    Args:
        recipes: or their files or names; each must have the task.
        cohort: or its folder.
        task: the question by which they are judged.
        into: the folder of runs, answers and the comparison.
        seeds: how many; each recipe's own and those after it.
        budget: of each run's pretraining; None for each recipe's own steps.
        method: of adapting.
        labels: labelled patients for adapting; None for all.
        draws: resamples.
        progress: called with done, all, what.
    Raises:
        EvidenceError: a recipe without the task, two of one name, no seed, no patient about whom all answered.
        BudgetError: the budget does not pay for a step.
        RunError: the folder holds a run of another recipe or of other records.
    """
    asked = [r if isinstance(r, Recipe) else Recipe.load(r) for r in recipes]
    cohort = cohort if isinstance(cohort, Cohort) else Cohort.open(cohort)
    place = Path(into)
    _check(asked, task, seeds)
    costs = {recipe.name: _costs(recipe, cohort, place) for recipe in asked}
    planned = [r if budget is None else within(r, costs[r.name], budget) for r in asked]
    total, done = len(planned) * seeds, 0
    answers: dict[str, list[Predictions]] = {}
    seconds: dict[str, float] = {}
    splits: dict[str, str] = {}
    for recipe in planned:
        for number in range(seeds):
            if progress:
                progress(done, total, f"{recipe.name}, seed {recipe.seed + number}")
            one = recipe.model_copy(
                update={"name": f"{recipe.name}-{recipe.seed + number}", "seed": recipe.seed + number}
            )
            found = _trial(one, cohort, place, task, method, labels)
            answers.setdefault(recipe.name, []).append(found.answers)
            seconds[recipe.name] = seconds.get(recipe.name, 0.0) + found.seconds
            splits[recipe.name] = found.split
            done += 1
    if progress:
        progress(done, total, "compared")
    metric = PRIMARY[planned[0].tasks[task].kind]
    figures, each, behind = judged(metric, answers, splits[planned[0].name], draws=draws)
    arms = [
        Arm(
            r.name, str(taxonomy(r)), sum(s.steps for s in r.stages), (cost := spent(r, costs[r.name])).tokens, cost.flops,
            figures[r.name], each[r.name], behind.get(r.name), round(seconds[r.name], 1),
        )
        for r in sorted(planned, key=lambda r: -figures[r.name].value)
    ]  # fmt: skip
    ahead = sum(a > b for a, b in zip(arms[0].each, arms[1].each, strict=True)) if len(arms) > 1 else 0
    many = len(set(splits.values()))
    note = f"The recipes split the cohort in {many} ways; judged by who tests in all of them." if many > 1 else ""
    first = planned[0].seed
    unread = {one.record: one for each in answers.values() for said in each for one in said.unread}
    made = Factorial(
        task, metric, method, labels, budget, tuple(range(first, first + seeds)), tuple(arms), ahead, note, tuple(unread.values())
    )  # fmt: skip
    made.write(place)
    return made


def _check(recipes: Sequence[Recipe], task: str, seeds: int) -> None:
    if not recipes or seeds < 1:
        raise EvidenceError(f"{len(recipes)} recipes and {seeds} seeds", "at least one of each", "name some")
    names = [r.name for r in recipes]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise EvidenceError(f"two recipes called {twice[0]!r}", "a name each", "change `name` in one of them")
    if len({r.seed for r in recipes}) > 1:
        raise EvidenceError("recipes of different seeds", "the same `seed` in all, as seeds are paired", "mend them")
    for recipe in recipes:
        spec = recipe.tasks.get(task)
        if spec is None or PRIMARY[spec.kind] not in COMPARED:
            there = [n for n, t in recipe.tasks.items() if PRIMARY[t.kind] in COMPARED]
            raise EvidenceError(
                f"no task {task!r} in the recipe {recipe.name!r} by which it could be judged",
                "one of " + (", ".join(there) or "none: give it `tasks`"), "name a task that all recipes have",
            )  # fmt: skip
        if keys := _asked(recipes[0], recipe, task):
            raise EvidenceError(
                f"the task {task!r} of {recipe.name!r} is another than that of {recipes[0].name!r}: {keys[0]}",
                "one question for all", "mend `tasks`",
            )  # fmt: skip


def _asked(one: Recipe, other: Recipe, task: str) -> list[str]:
    """In what the same task of two recipes differs; what may be read is the recipes' own affair."""
    return [k for k in differing(one, other) if k.startswith(f"tasks.{task}.") and ".inputs" not in k]


def _hash(recipe: Recipe, cohort: Cohort, *asked: object) -> str:
    """Of all that decides an answer: the recipe, the records, what is asked."""
    records = sorted(r.id for r in cohort.records(recipe.cohort.where))
    return key_of(recipe.model_dump(mode="json"), records, asked)


def _costs(recipe: Recipe, cohort: Cohort, place: Path) -> tuple[Cost, ...]:
    """What a step of each stage costs; measured once a recipe."""
    name = _hash(recipe, cohort)
    kept = place / "costs" / f"{recipe.name}-{name}.json"
    if kept.exists():
        return tuple(Cost(**c) for c in json.loads(kept.read_text(encoding="utf-8")))
    run = Run(place / "costs" / f"{recipe.name}-{name}")
    prepare(run, recipe, cohort)
    costs = stage_costs(run, cohort)
    write_json(kept, [asdict(c) for c in costs])
    return costs


@dataclass(frozen=True, slots=True)
class Trial:
    """One recipe with one seed: its answers about the test patients, and what it took."""

    answers: Predictions
    seconds: float
    split: str


def _trial(recipe: Recipe, cohort: Cohort, place: Path, task: str, method: Method, labels: int | None) -> Trial:
    """Pretrain, adapt and answer, or read what was answered before."""
    key = _hash(recipe, cohort, task, method, labels)
    kept = place / "answers" / f"{recipe.name}-{key}.json"
    if kept.exists():
        data = json.loads(kept.read_text(encoding="utf-8"))
        return Trial(answers_of(data, task), data["seconds"], data["split"])
    began = time.monotonic()
    run = pretrain(recipe, cohort, into=place / "runs")
    adapted = adapt(run, task, method, labels, cohort=cohort, seed=recipe.seed)
    found, seconds = usable(predict(adapted, cohort)), time.monotonic() - began
    write_json(kept, {**told(found), "seconds": seconds, "split": run.split.hash})
    return Trial(found, seconds, run.split.hash)


def judged(
    metric: str, answers: Mapping[str, Sequence[Predictions]], split: str, *, draws: int = DRAWS, seed: int = 0
) -> tuple[dict[str, Figure], dict[str, tuple[float, ...]], dict[str, Figure]]:
    """Figures of each recipe, of each of its seeds, and of how far it is behind the best.

    Args:
        metric: a name in `COMPARED`.
        answers: recipe → answers by seed, as many of each.
        split: the split's hash.
        draws: resamples.
        seed: of the resamples.
    Raises:
        EvidenceError: there is no patient about whom all answered, or they differ about the truth.
    """
    found = drawn(metric, answers, split, draws=draws, seed=seed)
    best = max(answers, key=found.mean)
    behind = {name: found.difference(best, name) for name in answers if name != best}
    return {name: found.figure(name) for name in answers}, dict(found.each), behind
