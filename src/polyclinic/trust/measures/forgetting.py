"""Forgetting: what a language model says of held-out texts of each part of its diet, before and after it learned another.

Perplexity is exp of the nats a word; nats are reported, for they add up, and their differences compare two stages on the same texts.
A word is a word piece of the run's own tokenizer: nats of two runs with other tokenizers do not compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from ...cohort import Cohort
from ...cohort.mixture import Part, parts_of
from ...harmonise.loader import Loader
from ...models import Model
from ...objectives.language import next_words, words_of
from ...objectives.words import UNTOLD, numbers
from ...schema import Figure, Modality
from ...training import Run, RunError
from .intervals import bootstrap

Sums = tuple[np.ndarray, np.ndarray]
"""(r,) nats of each record's words, and how many words they are."""


@dataclass(frozen=True, slots=True)
class Perplexity:
    """What a model says of a part's held-out texts after a stage.

    Args:
        stage, part: which.
        nats: a word.
        change: of it since the first of the stages that were compared, on the same texts in the same resamples: above 0 it forgot.
        words: that were asked for.
    """

    stage: str
    part: str
    nats: Figure
    change: Figure
    words: int


def perplexities(
    run: Run, cohort: Cohort, parts: Mapping[str, str], stages: Sequence[str] | None = None, seed: int = 0
) -> list[Perplexity]:
    """Nats a word of the test patients' texts, by part and stage; intervals by bootstrap over records.

    Args:
        run: with a causal text encoder, and stages whose weights were kept.
        cohort: that it was trained on.
        parts: name → DuckDB condition on the records.
        stages: that are compared, the first is what the others are compared with; by default all that were kept.
        seed: of the resamples.
    Raises:
        RunError: no stage was kept, or nobody's text of a part was held out.
        MixtureError: a part has no record.
        ObjectiveError: the model reads no text from the first word to the last.
    """
    stages = [s.name for s in run.recipe.stages if s.keep] if stages is None else stages
    if not stages:
        raise RunError(f"a run {run.path} of no kept stage", "at least one", "say `keep: true` in its stages")
    found = []
    for part in parts_of(cohort, {name: (where, 1.0) for name, where in parts.items()}, run.recipe.cohort.where):
        loader = _held_out(run, cohort, part)
        sums = {stage: _nats(run.model(stage=stage), loader) for stage in stages}
        for stage, measured in sums.items():
            found.append(_compared(stage, part.name, sums[stages[0]], measured, run.split.hash, seed))
    return found


def _compared(stage: str, part: str, first: Sums, measured: Sums, split: str, seed: int) -> Perplexity:
    """The figures of one part after one stage, beside those of the first."""
    (nats, words), name = measured, f"nats a word of {part} after {stage}"

    def figure(called: str, sums: np.ndarray) -> Figure:
        rate = lambda weights: weights @ sums / (weights @ words)
        made = bootstrap(
            rate, np.zeros(len(sums)), name=called, split=split, seed=seed, method="percentile", bounded=False
        )
        return replace(made, note=made.note.replace("patients", "records"))

    change = figure(f"change of {name}", nats - first[0])
    if not (nats - first[0]).any():
        change = replace(change, low=0.0, high=0.0, note="no interval: the same answers")
    return Perplexity(stage, part, figure(name, nats), change, int(words.sum()))


def _held_out(run: Run, cohort: Cohort, part: Part) -> Loader:
    records = [r for r in part.records if r.modality is Modality.TEXT]
    loader = Loader(records, run.split.test, run.recipe.standards(), run.fingerprint, cohort.load, cache=run.cache)
    if not loader.patients:
        raise RunError(
            f"no text of a test patient in the part {part.name!r}", "at least one", "widen its condition, or the split"
        )
    return loader


@torch.no_grad()
def _nats(model: Model, loader: Loader) -> Sums:
    """What the model says of all of the loader's texts."""
    encoder, nats, words = words_of(model, "perplexity", causal=True), [], []
    for batch in loader.each():
        ragged = batch.payloads[Modality.TEXT]
        wanted = next_words(ragged.values, encoder.longest)
        logits = F.linear(encoder(ragged).values, encoder.words.weight).float()
        lost = F.cross_entropy(logits, wanted, reduction="none", ignore_index=UNTOLD).double()
        record = numbers(list(ragged.values))
        nats.append(torch.zeros(len(ragged), dtype=torch.float64).index_add_(0, record, lost))
        words.append(torch.bincount(record[wanted != UNTOLD], minlength=len(ragged)))
    return torch.cat(nats).numpy(), torch.cat(words).double().numpy()


def table(found: Sequence[Perplexity]) -> str:
    """For a person: a row a part and stage."""
    head = f"{'part':<12} {'after':<12} {'nats a word (95% interval)':<28} {'change':<26} {'perplexity':>10} {'texts':>6} {'words':>7}"
    rows = [
        f"{p.part:<12} {p.stage:<12} {_interval(p.nats):<28} {_interval(p.change, '+'):<26} {np.exp(p.nats.value):>10.1f} "
        f"{p.nats.n:>6} {p.words:>7}"
        for p in found
    ]
    return "\n".join([head, *rows])


def _interval(figure: Figure, sign: str = "") -> str:
    return f"{figure.value:{sign}.3f} ({figure.low:{sign}.3f} to {figure.high:{sign}.3f})"
