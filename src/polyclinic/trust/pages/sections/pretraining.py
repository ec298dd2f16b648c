"""What pretraining learned without labels: does an X-ray find its own note, what lies near what, and how the losses fell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from html import escape

import numpy as np

from ...measures.retrieval import Candidate, RetrievalExample
from ..embeddings import EmbeddingMap
from ..inputs import Curve, ReportInputs
from ..page import Section, lead, small, verbatim, warning
from ..pictures import png
from ..plots import MODALITIES, UNLABELLED, Look, curve, legend, looks, scatter
from ..summary import Summary
from .words import capital, chance_of, evidence_key, patients, read_as

FEW_PAIRS = 30
"""Below so many patients a share of them is an anecdote."""
MAP = lead(
    "Pretraining gives every record a place in one shared space; two records of one patient should lie close. The map "
    "flattens that space to two directions. Each mark is what one test patient has of one kind of record; the axes "
    "have no unit, and only who is near whom means anything. Groups by kind of record mean that the model tells kinds "
    "apart; groups by finding within a kind mean that it tells patients apart, which is what is wanted."
)
CENTRED = small(
    "The same points, with what sets the kinds of records apart taken off: what is left tells patients apart."
)
OBJECTIVES = {
    "contrastive": "contrastive: which two records are of the same patient",
    "local": "local: which word of a note speaks of which part of a picture of the same patient",
    "symile": "symile: which three and more records are of the same patient",
    "dino": "dino: two parts of one record are alike",
    "ibot": "ibot: what a better-informed copy of the model sees in the part that was hidden",
    "masked": "masked: what stood in the part of a record that was hidden",
    "segmentation": "segmentation: where a structure lies",
    "caption": "caption: which words describe a picture",
}


def retrieval(inputs: ReportInputs, summary: Summary) -> Section | None:
    """Examples of a query and the gallery's first answers, with n and chance."""
    if not inputs.retrieval:
        return None
    first = inputs.retrieval[0]
    query, answer = (escape(read_as(m, inputs.words)) for m in (first.query, first.answer))
    n = summary.shown("retrieval.gallery", first.gallery, what="test patients with both")
    told = lead(
        f"Each {query} is compared with the {answer}s of the {n} test patients who have both; the model has seen none "
        "of them. The most alike should be the patient's own. Likeness is a cosine: one is the same direction in the "
        "shared space, zero is unrelated."
    )
    few = ""
    if first.gallery < FEW_PAIRS:
        few = warning(
            f"<strong>Only {n} test patients have both.</strong> These examples show how it works; they cannot show how well."
        )
    examples = "".join(_example(e, number, inputs, summary) for number, e in enumerate(inputs.retrieval, start=1))
    heading = (
        f"Does a patient's {read_as(first.query, inputs.words)} find their own {read_as(first.answer, inputs.words)}?"
    )
    short = f"From {read_as(first.query, inputs.words)} to {read_as(first.answer, inputs.words)}"
    return Section("retrieval", heading, told + few + _measured(inputs, first, summary) + examples, short)


def _measured(inputs: ReportInputs, first: RetrievalExample, summary: Summary) -> str:
    """How often it did, beside what guessing gives."""
    said, called = "", escape(read_as(first.answer, inputs.words))
    for evidence in (e for e in inputs.evidence if e.kind == "retrieval" and e.inputs == (first.query, first.answer)):
        found = next((f for f in evidence.figures if f.name == "recall_at_1"), None)
        if found is None or (chance := chance_of(found)) is None:
            continue
        key = evidence_key(evidence, found.name)
        words = summary.measured(key, found)
        guess = summary.shown(f"{key}.chance", chance, what="what guessing gives")
        said += (
            f"<p>Their own {called} was the most alike in a share of {words} of the patients, {patients(summary, key)}; "
            f"guessing gives {guess}.</p>"
        )
    return said


def _example(example: RetrievalExample, number: int, inputs: ReportInputs, summary: Summary) -> str:
    key, who = f"retrieval.{number}", verbatim(example.patient)
    query, answer = (read_as(m, inputs.words) for m in (example.query, example.answer))
    rank = summary.shown(f"{key}.rank", example.rank, what="rank of the own one")
    of = summary.shown(f"{key}.gallery", example.gallery, what="test patients with both")
    shown = _seen(example.image, example.words, f"{capital(query)} of test patient {example.patient}")
    items = "".join(_answer(a, f"{key}.answer_{n}", answer, summary) for n, a in enumerate(example.answers, start=1))
    return (
        f"<h3>{who}: their own {escape(answer)} was ranked {rank} of {of}</h3>"
        f'<div class="example"><figure>{shown}<figcaption>{escape(capital(query))} of {who}</figcaption></figure>'
        f'<ol class="answers" aria-label="The most alike first">{items}</ol></div>'
    )


def _answer(answer: Candidate, key: str, called: str, summary: Summary) -> str:
    words = f"{answer.similarity:.2f}".replace("-0.00", "0.00").replace("-", "−")
    alike = summary.shown(f"{key}.similarity", answer.similarity, words, what="cosine similarity")
    badge = '<span class="badge">✓ the patient’s own</span>' if answer.own else f"of {verbatim(answer.patient)}"
    seen = _seen(answer.image, answer.words, f"{capital(called)} of test patient {answer.patient}")
    own = ' class="own"' if answer.own else ""
    return f'<li{own}><div class="tagline"><span>{badge}</span><span>likeness {alike}</span></div>{seen}</li>'


def _seen(image: np.ndarray | None, words: str, alternative: str) -> str:
    """A thumbnail with its alternative text, or how the words begin."""
    if image is not None:
        return f'<img class="thumb" src="{png(image)}" alt="{escape(alternative, quote=True)}">'
    return f"<p>{verbatim(words or alternative)}</p>"


def embeddings(inputs: ReportInputs, summary: Summary) -> Section | None:
    """The map of the shared space, by kind of record and by finding."""
    maps = [m for m in inputs.maps if len(m.points)]
    parts = "".join(_map(m, f"map.{number}", inputs, summary) for number, m in enumerate(maps, start=1))
    return Section("map", "A map of what was learned", MAP + parts) if parts else None


def _map(found: EmbeddingMap, key: str, inputs: ReportInputs, summary: Summary) -> str:
    kinds = {m: look for m, look in MODALITIES.items() if m in found.modality}
    # What is sought comes first, so that it has the strongest colour: COVID-19, then not COVID-19.
    names = sorted(set(found.finding), key=lambda f: (f == UNLABELLED, f.startswith("not "), f))
    left = _coloured(found, found.modality, kinds, f"{key}.kind", "kind of record", inputs.words, summary)
    right = _coloured(found, found.finding, looks(names), f"{key}.finding", "finding", {}, summary)
    points = summary.shown(f"{key}.points", len(found.points), what="points")
    who = len(set(found.patient))
    said = f"{points} points of {summary.shown(f'{key}.patients', who, what='patients')} test patients"
    if found.asked > who:
        said += f", drawn from {summary.shown(f'{key}.asked', found.asked, what='patients')}"
    if np.isfinite(found.explained):
        kept = summary.shown(f"{key}.explained", found.explained, f"{found.explained:.0%}", what="share of variance")
        said += f"; the two directions keep {kept} of the spread"
    before = f"<h3>Each kind of record about its own mean</h3>{CENTRED}" if found.centred else ""
    return f'{before}<div class="grid2">{left}{right}</div>{small(f"Flattened by {escape(found.method)}: {said}.")}'


def _coloured(
    found: EmbeddingMap,
    names: tuple[str, ...],
    marks: Mapping[str, Look],
    key: str,
    by: str,
    words: Mapping[str, str],
    summary: Summary,
) -> str:
    counts = Counter(names)
    items = []
    for name, look in marks.items():
        count = summary.shown(f"{key}.{name}", counts[name], what="points")
        items.append((look, f"{verbatim(words.get(name, name))} ({count})"))
    plot = scatter(found.points, names, marks, f"Map of the test patients' records by {by}; the counts stand below")
    return f"<figure><figcaption>By {by}</figcaption>{plot}{legend(items)}</figure>"


def curves(inputs: ReportInputs, summary: Summary) -> Section | None:
    """Whether the losses fell."""
    drawn = [c for c in inputs.curves if np.isfinite(c.values).any()]
    if not drawn:
        return None
    asked = "; ".join(words for name, words in OBJECTIVES.items() if any(c.name.startswith(name) for c in drawn))
    questions = f" The questions are {asked}." if asked else ""
    told = lead(
        "At each step the model is asked several questions about a few training patients; a loss is how wrong it was. "
        "The thin line is each step, the thick one a running mean; the first panel is the sum that was trained on."
        + questions
    )
    pictures = "".join(_curve(c, inputs.words, summary) for c in drawn)
    return Section("curves", "How pretraining went", f'{told}<div class="grid3">{pictures}</div>', "Training curves")


def _curve(found: Curve, words: Mapping[str, str], summary: Summary) -> str:
    known = found.values[np.isfinite(found.values)]
    part = max(1, len(known) // 20)
    first, last = (
        summary.shown(
            f"curves.{found.name}.{name}", float(v.mean()), f"{v.mean():.3g}".replace("-", "−"),
            what=f"mean loss over the {name} twentieth of the steps",
        )
        for name, v in (("first", known[:part]), ("last", known[-part:]))
    )  # fmt: skip
    steps = summary.shown(f"curves.{found.name}.steps", len(known), what="steps")
    called = curve_name(found.name, words)
    picture = curve(found.steps, found.values, called, f"Loss “{called}” over the steps", found.stages)
    return f"<figure>{picture}<figcaption>from {first} to {last}, in {steps} steps</figcaption></figure>"


def curve_name(name: str, words: Mapping[str, str]) -> str:
    """`contrastive/image-text` is contrastive: X-ray – note; `loss` is all of it."""
    if name == "loss":
        return "all together"
    kind, _, what = name.partition("/")
    parts = what.split("-")
    called = " – ".join(words[p] for p in parts) if all(p in words for p in parts) else what
    return (f"{kind}: {called}" if what else kind).replace("_", " ")
