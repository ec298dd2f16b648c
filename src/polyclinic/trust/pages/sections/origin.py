"""What the report cannot say, what the model must not be used for, and how all of it was made."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from ...card import NOT_FOR
from ..inputs import ReportInputs
from ..page import Section, details, lead, mono, table, verbatim
from ..summary import Summary


def missing(inputs: ReportInputs, summary: Summary) -> Section | None:
    """Which parts were left out, and what they would need."""
    lacks = [line for there, line in _wanted(inputs) if not there]
    if not lacks:
        return None
    items = "".join(f"<li>{escape(line)}</li>" for line in lacks)
    told = lead("These parts had nothing to show and were left out.")
    return Section("missing", "What this report does not show", f"{told}<ul>{items}</ul>", "What is missing")


def _wanted(inputs: ReportInputs) -> list[tuple[bool, str]]:
    """Whether each part is there, and what to say where it is not."""
    adapted = [e for e in inputs.evidence if e.kind not in ("retrieval", "synthesis", "translation")]
    compared = inputs.comparison is not None and bool(inputs.comparison.rows)
    return [
        (bool(inputs.cohort.get("patients")), "Who was studied: the cohort is empty, or was not described."),
        (
            compared,
            "The comparison with the same network from scratch and with a simple baseline: it was not run, and nothing here shows "
            "that pretraining helps.",
        ),
        (bool(adapted), "Figures of an adapted model: no run adapted to a task was evaluated."),
        (
            any(e.kind == "retrieval" for e in inputs.evidence),
            "Figures of retrieval: the pretrained run was not evaluated.",
        ),
        (
            any((e.calibration and e.calibration.bins) or e.calibrations or e.risks for e in adapted),
            "Calibration: no classification, findings, grade or survival was evaluated.",
        ),
        (
            any(e.subsets for e in adapted),
            "Results when a kind of record is missing: no adapted model that reads several kinds was evaluated.",
        ),
        (
            bool(inputs.retrieval),
            "Examples of retrieval: the recipe has no retrieval task, or no test patient has both kinds of records.",
        ),
        (bool(inputs.overlays), "Segmentation: no run adapted to one was given, or no test patient has a drawn mask."),
        (any(len(m.points) for m in inputs.maps), "The map of what was learned: no test patient has a record to show."),
        (any(len(c.values) for c in inputs.curves), "Training curves: the run was moved without them."),
    ]


def not_for(inputs: ReportInputs, summary: Summary) -> Section:
    """In plain words."""
    train, test = (summary.shown(f"split.{side}", n) for side, n in zip(("train", "test"), inputs.sides, strict=True))
    inside = f"""<p>{escape(" ".join(NOT_FOR))}</p>
<p>Everything in this report was measured on {test} patients from the same collection of records as the {train} that the model learned from.
 Nothing here says how it does elsewhere, later, or in the hands of people who trust it.</p>"""
    return Section("not-for", "What this model must not be used for", inside, "Must not be used for")


def made(inputs: ReportInputs, summary: Summary) -> Section:
    """Enough to make it again, and to check that it is the same."""
    size = summary.shown("made.parameters", inputs.parameters, what="parameters") if inputs.parameters else ""
    facts = {
        "run": mono(inputs.run),
        "split": mono(inputs.split),
        "backbone weights": mono(inputs.weights) if inputs.weights else "",
        "parameters of the backbone": size,
        "source, commit": mono(inputs.commit) if inputs.commit else "not under version control",
        "machine": verbatim(inputs.machine),
        "made": verbatim(inputs.made),
    }
    listed = "".join(f"<dt>{k}</dt><dd>{v}</dd>" for k, v in facts.items() if v not in ("", verbatim("")))
    return Section(
        "made",
        "How it was made",
        f'<dl class="facts">{listed}</dl>{_seconds(inputs.seconds, summary)}{_licences(inputs)}{_ingredients(inputs)}',
    )


def _licences(inputs: ReportInputs) -> str:
    lines = "".join(f"<li>{verbatim(line)}</li>" for line in inputs.licences)
    return f"<h3>Data and licences</h3><ul>{lines}</ul>" if lines else ""


def _ingredients(inputs: ReportInputs) -> str:
    inside = ""
    if inputs.packages:
        rows = [[verbatim(name), mono(version)] for name, version in inputs.packages.items()]
        inside += details("Packages", table("Packages when the run was pretrained", ("package", "version"), rows))
    if inputs.recipe:
        code = f'<pre tabindex="0"><code>{escape(inputs.recipe)}</code></pre>'
        inside += details("The recipe, with its defaults written out", code)
    return inside


def _seconds(seconds: Mapping[str, float], summary: Summary) -> str:
    if not seconds:
        return ""
    every = {**seconds, "together": sum(seconds.values())}
    rows = [
        [verbatim(name), summary.shown(f"made.seconds.{name}", s, f"{s:.1f}", what="seconds")]
        for name, s in every.items()
    ]
    return "<h3>How long each part took</h3>" + table("Seconds on this machine", ("part", "seconds"), rows, (1,))


def foot(inputs: ReportInputs) -> str:
    """What to mind of the file itself."""
    kept = "It holds pictures and notes of patients: keep it as you keep their records."
    pictures = kept if inputs.retrieval or inputs.overlays else ""
    return (
        "<footer><p>This file is complete in itself: it loads nothing and runs nothing. Every figure in it stands in "
        f'<span class="mono">summary.json</span> beside it. {pictures}</p></footer>'
    )
