"""Sentences instead of labels: a linear head over the space that records and sentences share, whose weights are sentences' vectors.

That is CLIP's zero-shot classifier (Radford et al. 2021, section 3.1.2), with several sentences a class (section 3.1.4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models import Model
from ..schema import Modality, Ragged
from ..tasks import Classes, Classification, Findings, LinearTask
from ..tokens.text import as_note
from ..training import Run
from ..training.methods import ZeroShot
from ..training.reading import guess
from .plan import AdaptError

YES = ("{}.", "There is {}.", "Findings consistent with {}.", "The image shows {}.")
NO = ("No {}.", "There is no {}.", "No evidence of {}.", "The image shows no {}.")
"""Sentences of a finding, where the method has none; of classes those of the first."""
Said = dict[str, dict[str, tuple[str, ...]]]
"""Of each class or finding the sentences that say it ("yes") and, of what need not be, those that deny it ("no")."""


def words_of(spec: Classification | Classes | Findings) -> dict[str, str]:
    """What each class or finding is called in a sentence, by its name."""
    if isinstance(spec, Classification):
        return {spec.finding(): spec.finding()}
    column = spec.column.replace("_", " ") + " " if isinstance(spec, Classes) else ""
    return {n: n.replace("_", " ") if len(n) > 2 else f"{column}{n}" for n in spec.names()}


def sentences(method: ZeroShot, spec: Classification | Classes | Findings) -> Said:
    """The sentences of each class or finding: the method's, in which {} is what it is called, or our own.

    Raises:
        AdaptError: the method names what there is not, denies classes, or has no {} by which several are told apart.
    """
    words, classes = words_of(spec), isinstance(spec, Classes)
    for name in method.words:
        if name not in words:
            raise AdaptError(
                f"words of {name!r}, which is none of the {spec.kind}", "of " + ", ".join(words),
                guess(name, words, "correct the name"),
            )  # fmt: skip
    if classes and method.no:
        raise AdaptError(
            "sentences that say no, of classes", "sentences that say which class it is", "leave `no` out: of classes one is always there"
        )  # fmt: skip
    if len(words) > 1 and (alike := [s for s in (*method.yes, *method.no) if "{}" not in s]):
        raise AdaptError(
            f"the sentence {alike[0]!r} for {len(words)} {spec.kind}", "{} where the name of each stands",
            "write as “There is {}.”",
        )  # fmt: skip
    words |= method.words
    said = lambda templates: {n: tuple(t.replace("{}", w) for t in templates) for n, w in words.items()}
    yes, no = said(method.yes or YES), said(method.no or NO)
    return {n: {"yes": yes[n]} if classes else {"yes": yes[n], "no": no[n]} for n in words}


def over_sentences(head: LinearTask, embedding: int) -> LinearTask:
    """The task's head over the shared space of width e, before there are sentences."""
    made = type(head)(head.name, head.spec, embedding)  # type: ignore[call-arg]
    made.shared = True
    return made


@torch.no_grad()
def fit_sentences(head: LinearTask, run: Run, model: Model, temperature: float, said: Said) -> None:
    """Make a head's weights of sentences: the product with a vector is the mean of its cosines with those that say yes, less the mean of
    those with the others, over the temperature.

    Args:
        head: of `over_sentences`.
        said: the sentences, in the order of the head's outputs.
    Raises:
        AdaptError: the model reads no text.
    """
    kinds = [[spoken(run, model, told).mean(0) for told in each.values()] for each in said.values()]
    head.head.weight.copy_(torch.stack([kind[0] - sum(kind[1:]) for kind in kinds]) / temperature)


def spoken(run: Run, model: Model, said: Sequence[str]) -> Tensor:
    """(s e) the sentences' vectors of length one."""
    standard = run.recipe.standards().get(Modality.TEXT)
    if standard is None:
        raise AdaptError(
            "zero_shot on a model that reads no text",
            "an encoder of text in the recipe",
            "adapt by prototype, knn or probe, from labels",
        )
    words = [as_note(one, standard, run.fingerprint) for one in said]
    count = len(words)
    ragged = Ragged(words, torch.arange(count), torch.zeros(count), None, count, [str(n) for n in range(count)])
    tokens = model.bridged(Modality.TEXT, model.encoder(Modality.TEXT)(ragged))
    if not bool((tokens.lengths > 0).all()):
        raise AdaptError(
            "zero_shot by sentences of which the run knows no word", "words of the notes that it learned from",
            "say them otherwise in `yes` and `no`, or adapt from labels",
        )  # fmt: skip
    return model.towers({Modality.TEXT: tokens})[Modality.TEXT].vectors.float()
