"""Question: what is asked of a patient stands in words beside what is known of the patient, and the same network answers them all.

    the patient's tokens ──┐
                           ├─ fusion ── the mean of its words ── perceptron ── yes or no, or how soon
    the question's words ──┘

After M3FM for lung cancer screening (Niu et al., Nature Communications 2025), whose task encoder is here the model's own fusion. One
answer serves all questions of its kind, so that only the words say what is asked, and another question may be put later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..fusion import FusionFields, Intermediate, Late
from ..schema import Batch, Losses, Modality, Ragged, Target, Tokens
from ..tokens import EncoderFields, join
from ..tokens.packing import copies, with_values
from .objective import Backbone, Finding, Objective, ObjectiveError, Outcome, Structure
from .outcomes import finding_loss
from .supervised import LabelledFields, findings

SMALLEST_SPREAD = 1e-3
"""A coordinate that moves less among the words of all questions tells nothing."""


class Question(LabelledFields):
    """The tasks' answers to their questions. A task's fields `questions` and `inputs` say how it is asked, and what may be read; of
    several findings each is asked by itself."""

    kind: Literal["question"] = "question"

    def named(self) -> set[Modality]:
        """Text: the questions are."""
        return {Modality.TEXT}

    def fits(self, encoders: Mapping[Modality, EncoderFields], width: int, fusion: FusionFields) -> None:
        """Tokens hear each other in the fusion."""
        if isinstance(fusion, Late) or (isinstance(fusion, Intermediate) and fusion.style == "perceiver"):
            raise ValueError(
                "a question's words must hear what is known of the patient, and in this fusion "
                "no token hears another; use early, or intermediate with another style"
            )

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> QuestionObjective:
        """The module, with an answer a kind of task."""
        return QuestionObjective(self, model, findings(self.tasks, structures))


@dataclass(frozen=True, slots=True)
class Put:
    """A question that a task puts.

    Args:
        task: its name.
        finding: with the ways to ask it.
        column: of several findings, which one; None of a task that is one question.
    """

    task: str
    finding: Finding
    column: int | None = None

    def values(self, target: Target) -> Tensor:
        """(b …) what is known."""
        assert isinstance(target.values, Tensor)
        return target.values if self.column is None else target.values[:, self.column]

    def known(self, target: Target | None) -> Tensor:
        """(p,) int64, ascending: of whom of the batch the answer is known."""
        if target is None:
            return torch.zeros(0, dtype=torch.int64)
        there = target.mask if self.column is None else target.mask & self.values(target).isfinite()
        return torch.nonzero(there).flatten()


def put(task: str, finding: Finding) -> dict[str, Put]:
    """The questions of a task, each by the name of its loss: the task's, and of several findings the finding's behind it.

    Raises:
        ObjectiveError: its answer is neither yes, no nor how soon.
    """
    if not finding.questions:
        raise ObjectiveError(
            f"the task {task!r}, of {finding.outcome}, as a question", "an answer that is yes, no or how soon",
            "make a finding of each in a task `findings`, or take `supervised`",
        )  # fmt: skip
    if finding.outcome != "findings":
        return {task: Put(task, finding)}
    return {f"{task}/{part.names[0]}": Put(task, part, n) for n, part in enumerate(finding.questions)}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and of whom.

    Args:
        words: (w,) int64, as a note of the model's encoder of words.
        outcome: of which kind the answer is.
        patients: (p,) int64, ascending: who of the batch is asked of.
        inputs: what may be read of them; None for all.
    """

    words: Tensor
    outcome: Outcome
    patients: Tensor
    inputs: tuple[Modality, ...] | None = None


class QuestionObjective(Objective):
    """An answer a kind of task, and a mark by which a question is no note of the patient's."""

    def __init__(self, spec: Question, model: Backbone, asked: Mapping[str, Finding]) -> None:
        super().__init__()
        self.spec = spec
        self.each = {name: one for task, finding in asked.items() for name, one in put(task, finding).items()}
        if Modality.TEXT not in model.modalities or not all(one.finding.words for one in self.each.values()):
            raise ObjectiveError(
                "questions for a model that reads no words in their order",
                "an encoder of words: bert, gpt, llama or pretrained_text",
                "take one, or the objective `supervised`",
            )
        ways = [(name, tuple(words.tolist())) for name, one in self.each.items() for words in one.finding.words]
        for task, words in ways:
            if other := next((t for t, w in ways if w == words and t != task), None):
                raise ObjectiveError(
                    f"questions of {task!r} and {other!r} that read alike: the training notes have none of the words that tell them apart",
                    "two questions of different word pieces", "say them otherwise in the tasks' `questions`, or raise `vocabulary`",
                )  # fmt: skip
        d = model.width
        self.mark = nn.Parameter(torch.randn(d) * 0.1)
        outcomes = dict.fromkeys(one.finding.outcome for one in self.each.values())
        share = spec.weight / len(asked)
        self.weights = {
            name: share / sum(other.task == one.task for other in self.each.values()) for name, one in self.each.items()
        }
        self.answers = nn.ModuleDict(
            {o: nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.LayerNorm(d), nn.Linear(d, 1)) for o in outcomes}
        )

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """The term `question/task` of each task of which somebody in the batch is labelled and can be read; of several findings
        `question/task/finding`."""
        of = {name: one.known(batch.targets.get(one.task)) for name, one in self.each.items()}
        who = {name: labelled for name, labelled in of.items() if len(labelled)}
        tokens = model.encode(batch) if who and tokens is None else tokens
        if not who or not tokens:
            return Losses({}, {})
        asked = []
        for name, rows in who.items():
            finding = self.each[name].finding
            way = int(torch.randint(len(finding.words), (), generator=generator, device=generator.device))
            there = rows[readable(tokens, finding.inputs)[rows]]
            asked.append(Asked(finding.words[way], finding.outcome, there, finding.inputs))
        terms: dict[str, Tensor] = {}
        for name, question, output in zip(who, asked, self.answer(model, tokens, asked), strict=True):
            one = self.each[name]
            term = finding_loss(one.finding, output, one.values(batch.targets[one.task])[question.patients])
            if term is not None:
                terms[f"question/{name}"] = term
        return Losses(terms, {term: self.weights[term.removeprefix("question/")] for term in terms})

    def answer(self, model: Backbone, tokens: Mapping[Modality, Tokens], asked: list[Asked]) -> list[Tensor]:
        """What the model says to questions.

        Args:
            model: that is asked.
            tokens: the patients' whole records, as `model.encode` gives them.
            asked: the questions; each patient that it names has something to be read.
        Returns:
            of each question (p,) logits or log hazards.
        Raises:
            ObjectiveError: a kind of answer that no task of the stage has.
        """
        for question in asked:
            if question.outcome not in self.answers:
                raise ObjectiveError(
                    f"a question with an answer of kind {question.outcome!r}", "one of " + ", ".join(self.answers),
                    "add a task of this kind to the objective, and pretrain",
                )  # fmt: skip
        at, sizes = self.mark.device, [len(question.patients) for question in asked]
        if not sum(sizes):
            return [torch.zeros(0, device=at)] * len(asked)
        patients = torch.cat([question.patients for question in asked]).to(at)
        number = torch.arange(len(asked), device=at).repeat_interleave(torch.tensor(sizes, device=at))
        spoken, rows = self._spoken(model, asked)
        words = copies(spoken, rows[number])
        shown: dict[Modality, Tokens] = {}
        for modality, found in tokens.items():
            may = torch.tensor([q.inputs is None or modality in q.inputs for q in asked], device=at)
            shown[modality] = copies(found, torch.where(may[number], patients, -1))
        notes = shown.get(Modality.TEXT)
        shown[Modality.TEXT] = words if notes is None else join([notes, words])
        heard = question_mean(model.fuse(shown, len(patients)).tokens, words)
        with torch.autocast(heard.device.type, enabled=False):  # bfloat16 would tie patients
            return [
                self.answers[question.outcome](part).squeeze(1)
                for question, part in zip(asked, heard.split(sizes), strict=True)
            ]

    def _spoken(self, model: Backbone, asked: list[Asked]) -> tuple[Tokens, Tensor]:
        """The words of the stage's own questions, and behind them of others that are asked, each question a patient of its own; and
        which of these patients (q,) each that is asked is.

        Each coordinate is standardised by the stage's questions, so that all of them are read: places are most of a word's vector, and
        alike in all questions. In float32 whatever the model's precision, for what differs is little.
        """
        every = [words for one in self.each.values() for words in one.finding.words]
        own, row = len(every), {tuple(words.tolist()): n for n, words in enumerate(every)}
        for question in asked:
            if row.setdefault(tuple(question.words.tolist()), len(every)) == len(every):
                every.append(question.words)
        at = self.mark.device
        words, number = [each.to(at) for each in every], torch.arange(len(every), device=at)
        names = [str(n) for n in range(len(every))]
        ragged = Ragged(words, number, torch.zeros(len(every), device=at), None, len(every), names)
        with torch.autocast(at.type, enabled=False):
            spoken = model.bridged(Modality.TEXT, model.encoder(Modality.TEXT)(ragged))
            known = spoken.values[spoken.patient < own].detach()
            spread = known.std(0, correction=0).clamp(min=SMALLEST_SPREAD)
            spoken = with_values(spoken, (spoken.values - known.mean(0)) / spread + self.mark)
        return spoken, torch.tensor([row[tuple(question.words.tolist())] for question in asked], device=at)


def question_mean(fused: Tokens, words: Tokens) -> Tensor:
    """(s d) float32: the mean of each question's words after the fusion, where they stand behind the patient's own notes.

    Args:
        fused: tokens of s patients, of all modalities, in the order in which they were joined.
        words: of their questions, as they went in.
    """
    said = fused.modality == Modality.TEXT.number
    patient, s = fused.patient[said], len(words.lengths)
    lengths = torch.bincount(patient, minlength=s)
    order = torch.arange(len(patient), device=patient.device) - (torch.cumsum(lengths, 0) - lengths)[patient]
    asked = order >= (lengths - words.lengths)[patient]
    values = fused.values[said][asked].float()
    return values.new_zeros(s, values.shape[1]).index_add(0, words.patient, values) / words.lengths[:, None]


def readable(tokens: Mapping[Modality, Tokens], inputs: tuple[Modality, ...] | None) -> Tensor:
    """(b,) bool: which patients have a token of what may be read; of at least one modality."""
    there = [(found.lengths > 0) & (inputs is None or modality in inputs) for modality, found in tokens.items()]
    return torch.stack(there).any(0)
