"""What is known of answers like this one, from patients that the model never saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..schema import Figure
from ..tasks import Answer
from ..trust import Evidence as Measured
from ..trust.measures.metrics import CHANCE
from .reply import Alike, Evidence, Metric, ModelCard

NAMES = {
    "auroc": "AUROC",
    "dice": "Dice",
    "froc": "the share of things found, the mean over ⅛ to 8 false alarms an image (FROC),",
    "pck_10": "the share of points within a tenth of their extent (PCK)",
    "accuracy": "the share whose likeliest class is the true one",
    "macro_concordance": "concordance, the mean over the events,",
    "macro_auroc": "AUROC, the mean over the findings,",
    "quadratic_kappa": "quadratic-weighted kappa",
}

SHOWN = {
    "1_click": "by one click", "3_clicks": "by three clicks", "5_clicks": "by five", "box": "by a box", "name": "by name",
}  # fmt: skip
"""How a structure was shown, by the figure's name."""


def measured(run: Path, card: ModelCard) -> tuple[Measured | None, str]:
    """The evidence beside a run, if it is of these weights; else why there is none.

    Args:
        run: the adapted run's folder.
        card: what is served.
    """
    remedy = f"run `polyclinic evaluate {run}`."
    try:
        found, written = Measured.open(run), (run / "card.md").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None, f"Nothing is known of how often such answers are right: {remedy}"
    except (OSError, ValueError, KeyError, TypeError):
        return None, f"The evidence beside this run cannot be read: {remedy}"
    same = (found.split, found.weights, found.task, found.method, found.labels, list(found.inputs)) == (
        card.split, card.backbone, card.task, card.method, card.labels, card.inputs,
    )  # fmt: skip
    # A run adapted again in the same folder leaves the old evidence beside it; only the card names the adapter's hash.
    if not same or card.adapter not in written or not found.figures:
        return None, f"The evidence beside this run was measured on other weights: {remedy}"
    return found, ""


def of_drawing(run: Path, card: ModelCard) -> tuple[str, Evidence | None]:
    """What is known of how well a run draws what it is shown, in words and, of one click, as numbers.

    Args:
        run: the folder of the run that learned it.
        card: what is served.
    """
    remedy = f"run `polyclinic evaluate {run}`."
    try:
        every = Measured.open(run).every
    except FileNotFoundError:
        return f"Nothing is known of how well it draws: {remedy}", None
    except (OSError, ValueError, KeyError, TypeError):
        return f"The evidence beside this run cannot be read: {remedy}", None
    mine = [e for e in every if (e.method, e.weights, e.split) == ("promptable", card.backbone, card.split)]
    told, first = list[str](), None
    for one in mine:
        ways = [(w, f) for w in SHOWN for f in one.figures if f.name == f"dice_by_{w}" and math.isfinite(f.value)]
        if ways:
            each = (f"{f.value:.2f} {SHOWN[w]} ({f.low:.2f} to {f.high:.2f})" for w, f in ways)
            told.append(f"{one.task.replace('_', ' ')}: {', '.join(each)}")
            first = first or (one, ways[0])
    if first is None:
        return f"Nothing is known of how well these weights draw: {remedy}", None
    (one, (way, figure)) = first
    metric = Metric(
        name=f"Dice {SHOWN[way]}", value=_number(figure.value), low=_number(figure.low), high=_number(figure.high), n=figure.n,
        note=figure.note, modalities=list(one.inputs), chance=None,
    )  # fmt: skip
    words = (
        f"On {figure.n} patients the model never saw, Dice of {'; '.join(told)}; {figure.note}. The clicks and boxes there were the "
        "truth’s own, and of the structures that it learned: with a person’s clicks, and on other structures, it draws less well."
    )
    return words, Evidence(metric=metric, alike=None)


def about(answer: Answer, known: Measured | None, why_none: str) -> tuple[str, Evidence | None]:
    """What happened to test patients with such an answer, in words and as numbers.

    Args:
        answer: of one patient.
        known: what was measured of the model.
        why_none: where nothing was.
    """
    if known is None:
        return why_none, None
    used = [m.value for m in answer.used]
    metric, words = _metric(known, used)
    alike = _alike(known, answer.values.get("score"))
    if alike is not None:
        came = round(alike.observed * alike.n)
        words += (
            f" Of the {alike.n} test patients with the nearest scores (mean {alike.predicted:.2f}, from everything they had) the truth was "
            f"yes for {came}: {alike.observed:.0%}, 95% interval {alike.low:.0%} to {alike.high:.0%}. "
            "The score is not a probability to act on."
        )
    return words, Evidence(metric=metric, alike=alike)


def headline(answer: Answer, evidence: Evidence | None) -> str:
    """The answer in one sentence; of a classification in words that the test patients with such scores bear out, not the score."""
    finding, score = answer.values.get("finding"), answer.values.get("score")
    if finding is None or not isinstance(score, float):
        return answer.headline
    alike = evidence.alike if evidence else None
    if alike is None:
        return f"{finding}: score {score:.2f}, of unknown meaning"
    words = "more likely than not" if alike.low > 0.5 else "less likely than not" if alike.high < 0.5 else "not clear"
    return f"{finding}: {words} (score {score:.2f})"


def _metric(known: Measured, used: Sequence[str]) -> tuple[Metric, str]:
    """The run's first metric: with what was read here, if that was measured, for it can be far from that of everything."""
    figure, reads = known.figures[0], list(known.inputs)
    lead = ""
    if set(used) != set(reads):
        part = next((s.figure for s in known.subsets if set(s.modalities) == set(used)), None)
        if part is not None:
            figure, reads = part, list(used)
            lead = f"From {_list(used)} alone, "
        else:
            lead = f"How often it is right from {_list(used)} alone was not measured. With everything they had, "
    name = NAMES.get(figure.name, figure.name.replace("_", " "))
    metric = Metric(
        name=name, value=_number(figure.value), low=_number(figure.low), high=_number(figure.high), n=figure.n,
        note=figure.note, modalities=reads, chance=CHANCE.get(figure.name),
    )  # fmt: skip
    whom = f"{lead}{'on' if lead else 'On'} {figure.n} patients the model never saw"
    if metric.value is None:
        return metric, f"{whom}, nothing could be measured: {figure.note}."
    if metric.low is None or metric.high is None:
        return metric, f"{whom}: {name} {metric.value:.2f}, and how sure that is could not be told: {figure.note}."
    words = f"{whom}: {name} {metric.value:.2f} ({_interval(figure)})."
    if metric.chance is not None and metric.low <= metric.chance:
        words += " That it does no better than a guess is not excluded."
    return metric, words


def _interval(figure: Figure) -> str:
    return f"{figure.low:.2f} to {figure.high:.2f}; {figure.note}"


def _alike(known: Measured, score: object) -> Alike | None:
    """The bin of the reliability curve whose mean score is nearest."""
    if not isinstance(score, float) or known.calibration is None or not known.calibration.bins:
        return None
    near = min(known.calibration.bins, key=lambda b: abs(b.predicted - score))
    return Alike(predicted=near.predicted, observed=near.observed, low=near.low, high=near.high, n=near.n)


def _list(words: Sequence[str]) -> str:
    return " and ".join(words)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
