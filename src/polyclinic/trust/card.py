"""The model card (Mitchell et al. 2019): what a run is, of whom it learned, how well it does, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Sequence

from ..cohort import Cohort
from ..cohort.catalogue import describe
from ..inference import taught
from ..inference.interactive import Segmenter, learned
from ..inference.synthesis import makes
from ..schema import Figure
from ..training import Run
from ..training.run import file_hash
from .evidence import Evidence
from .measures.prognosis import Reliability
from .measures.written import interval
from .modalities.contributions import Contributions

NOT_FOR = (
    "Not a medical device, and validated for no clinical use: no answer of it may decide about a person's care.",
    "Not for people unlike those it learned from: other ages, devices, sites, countries or referral paths.",
    "Not for ruling a finding out: an interval this wide allows for many misses.",
    "Not for ranking people for resources, insurance or employment.",
)


def card(run: Run, cohort: Cohort, evidence: Sequence[Evidence] = ()) -> str:
    """The card as Markdown.

    Args:
        run: pretrained or adapted.
        cohort: the catalogue it learned from.
        evidence: what was measured of it.
    """
    parts = [f"# {run.path.name}", _what(run), "## It must not be used for", _list(NOT_FOR)]
    parts += [
        "## How well it does",
        *([_measured(e, len(evidence) > 1) for e in evidence] or ["Nothing has been measured."]),
    ]
    parts += ["## Of whom it learned", _people(run, cohort), "## How it was made", _made(run)]
    return "\n\n".join(parts) + "\n"


def _what(run: Run) -> str:
    about = run.adapter
    reads = ", ".join(run.recipe.encoders)
    if not about and learned(run) is not None and not taught(run):
        return f"A backbone pretrained on {reads}, which draws the structure that it is shown by {_ways(run)}, without being adapted."
    if not about:
        asked, made = taught(run), makes(run)
        tasks = ", ".join(f"`{name}` ({run.recipe.tasks[name].kind}, by `{method}`)" for name, method in asked.items())
        kinds = " and ".join(f"{spec.target}s (by `{by}`)" for by, spec in made.items())
        answers = (
            f", which answers without being adapted: {tasks}."
            if tasks
            else "; it answers no question until it is adapted to one."
        )
        makes_too = (
            f" It makes {kinds}: none is a record of any patient, and one may be like a training patient's."
            if kinds
            else ""
        )
        return f"A backbone pretrained on {reads}{answers}{makes_too}"
    kind = run.recipe.tasks[about["task"]].kind
    return (
        f"Answers the task `{about['task']}` ({kind}) from {', '.join(about['inputs'])}, any subset of them. "
        f"The backbone, pretrained on {reads}, was adapted by {about['method']} with {about['labels']} labelled patients."
    )


def _ways(run: Run) -> str:
    ways = Segmenter(run).objective.spec.prompts
    return " or ".join({"point": "points", "box": "a box", "text": "its name"}[way] for way in ways)


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _row(name: str, figure: Figure) -> list[str]:
    return [name, interval(figure), str(figure.n), figure.note]


def _measured(evidence: Evidence, several: bool) -> str:
    figures = [*evidence.figures, *(evidence.calibration.figures if evidence.calibration else ())]
    named = {f.name: f for f in figures}  # Brier's score stands in both
    rows = [_row(name.replace("_", " "), f) for name, f in named.items()]
    rows += [_row("with only " + " + ".join(s.modalities), s.figure) for s in evidence.subsets]
    head = f"On patients of the test side, whom it never saw (split `{evidence.split}`):"
    whose = (
        f"### {evidence.task}, from {', '.join(evidence.inputs) or 'nothing'}, {evidence.labels} labelled patients\n\n"
        if several
        else ""
    )
    tables = [
        _table(("figure", "95% interval", "n", "how"), rows),
        *_adds(evidence.contributions),
        *map(_risks, evidence.risks),
    ]
    told = ["Beware, what may give the answer away:\n\n" + _list(evidence.giveaways)] if evidence.giveaways else []
    if evidence.unread:
        told.append(
            f"{len(evidence.unread)} of them could not be read, and no figure counts them; `evidence.json` says who and why."
        )
    return "\n\n".join([f"{whose}{head}", *told, *tables])


def _adds(found: Contributions | None) -> list[str]:
    """What each modality adds, and what is lost without it."""
    if found is None:
        return []
    rows = [(c.modality, interval(c.shapley), str(c.patients), interval(c.lost), str(c.lost.n)) for c in found.each]
    how = "all subsets asked" if found.exact else f"{found.asked} of {found.of} subsets asked"
    head = (
        f"What each modality adds to {found.metric.replace('_', ' ')} (Shapley values, {found.nothing:.2f} to {found.whole:.2f}, "
        f"n = {found.n}, {how}), and what those who have it and something else would lose without it:"
    )
    return [f"{head}\n\n{_table(('modality', 'adds', 'have it', 'lost without it', 'n'), rows)}"]


def _risks(found: Reliability) -> str:
    """The observed risks beside the predicted ones."""
    rows = [(f"{b.predicted:.2f}", f"{b.observed:.2f} ({b.low:.2f} to {b.high:.2f})", str(b.n)) for b in found.bins]
    head = f"Of patients grouped by their predicted {found.what}, in how many it came true:"
    estimator = "Aalen–Johansen" if found.event else "Kaplan–Meier"
    return f"{head}\n\n{_table(('predicted', f'observed ({estimator}, 95% interval)', 'n'), rows)}"


def _people(run: Run, cohort: Cohort) -> str:
    train = set(run.split.train)
    about = describe([r for r in cohort.records(run.recipe.cohort.where) if r.patient in train])
    age = about["age"]
    known = (
        f"{age['median']:.0f} years (90% of them {age['q05']:.0f} to {age['q95']:.0f}; known of {age['n']})"
        if age["n"]
        else "unknown"
    )
    return _list(
        [
            f"{len(train)} training patients; {len(run.split.test)} others were kept for testing",
            "sex: " + ", ".join(f"{k} {n}" for k, n in about["sex"].items()),
            f"median age: {known}",
            "sites: "
            + (", ".join(f"{k} {n}" for k, n in list(about["patients_by_site"].items())[:12]) or "not recorded"),
            "what they have: " + ", ".join(f"{k} {n}" for k, n in list(about["missingness"].items())[:12]),
        ]
    )


def _made(run: Run) -> str:
    lock, recipe = run.lock, run.recipe
    objectives = ", ".join(f"{s.name} ({s.objective.kind}, {s.steps} steps)" for s in recipe.stages)
    versions = ", ".join(f"{k} {v}" for k, v in lock["packages"].items())
    lines = [
        f"recipe `{recipe.name}`, seed {lock['seed']}, stages: {objectives}",
        f"backbone weights `{file_hash(run.weights)}`",
        *([f"adapter `{file_hash(run.path / 'adapter.safetensors')}`"] if run.adapter else []),
        f"split `{run.split.hash}`; the record ids of both sides are in `lock.json`",
        f"source {lock.get('commit') or 'not under version control'}; {versions}",
    ]
    return _list(lines)
