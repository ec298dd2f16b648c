"""What a recipe takes, before anything is loaded: the memory of each stage, from made-up records of the largest size there can be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..harmonise import Fingerprint, TextStandard, TfidfStandard
from ..harmonise.fingerprint import Scale
from ..harmonise.text import import_tokenizer, train_tokenizer
from ..models import build_model
from ..objectives import Finding, Instruct
from ..objectives.between import Between
from ..schema import Batch, Modality, Target
from ..tokens import phantom
from .memory import IMPOSSIBLE, PROBED, Estimate, estimate_of, gib, machine, told
from .ranks import fabric_for
from .recipe import Recipe, RecipeError, Stage, parts
from .step import Trainee, trainee_of

CODES, GENES, RATE_HZ = 1000, 20_000, 500.0
"""What is assumed of tables, omics and signals where no fingerprint says it: codes of some laboratory, a transcriptome, an ECG's rate."""
RECORDS = 2
"""Records a patient and modality of a stage that shows all."""
PROGRAM = 450 * 2**20
"""What Python, torch and the rest take before the first weight, on Linux."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one stage takes in one process.

    Args:
        stage: its name.
        parameters: of the model and the objective, exactly.
        bytes: of all of them, trained or not.
        records: bytes of a micro-batch's records.
        estimate: of what is kept for the backward and by the optimiser; None where the weights alone are too many to try.
    """

    stage: str
    parameters: int
    bytes: int
    records: int
    estimate: Estimate | None

    @property
    def total(self) -> int:
        """Bytes of everything; where there is no estimate, of the weights, their gradients and moments at the least."""
        return PROGRAM + self.bytes + self.records + (self.estimate.total if self.estimate else 3 * self.bytes)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a recipe takes.

    Args:
        stages: each one's.
        assumed: what stands in for records that nobody has seen, in words.
        machine, free: bytes of memory in all and free; None where the machine does not say.
    """

    stages: tuple[Need, ...]
    assumed: tuple[str, ...]
    machine: int | None
    free: int | None

    @property
    def most(self) -> Need:
        """The stage that takes most."""
        return max(self.stages, key=lambda need: need.total)

    @property
    def fits(self) -> bool | None:
        """Whether the machine has as much; None where it does not say."""
        return None if self.machine is None else self.most.total <= self.machine

    def as_words(self, recipe: Recipe) -> list[str]:
        """For a person: what is needed, what there is, what to lower where that is less, what was assumed."""
        most = self.most
        stage = next(s for s in recipe.stages if s.name == most.stage)
        what = "more than" if most.estimate is None else "about"
        there = "" if self.machine is None else f"; this machine has {gib(self.machine)}"
        there += "" if self.free is None else f", of which {gib(self.free)} are free"
        lines = [
            f"memory: needs {what} {gib(most.total)}, {most.parameters:,} parameters, in stage {most.stage!r}{there}",
            "an estimate, for patients who have every modality and records of the largest size"
            + "".join(f"; {words}" for words in self.assumed),
        ]
        if self.fits is False:
            what, remedy = told(recipe, stage, most.estimate)
            lines.append(f"too much for this machine ({what}): {remedy if most.estimate else 'take smaller encoders'}")
        return lines


def needs(recipe: Recipe, fingerprint: Fingerprint | None = None) -> Needs:
    """The memory that each stage of a recipe takes in one process.

    The network is built and shown two made-up patients; nothing of a forward is kept, and a network whose weights, gradients and moments
    would not fit is only counted.

    Args:
        recipe: what is asked.
        fingerprint: of the training records (a run's `model/fingerprint.json`); None assumes one.
    Raises:
        ObjectiveError: an objective cannot be asked of these encoders.
    """
    said: list[str] = []
    if fingerprint is None:
        fingerprint, said = assumed(recipe)
    (total, free), fabric = machine(), fabric_for(recipe.precision)
    found = tuple(_need(recipe, number, fingerprint, total, fabric) for number in range(len(recipe.stages)))
    return Needs(found, tuple(said), total, free)


def _need(recipe: Recipe, number: int, fingerprint: Fingerprint, total: int | None, fabric: Any) -> Need:
    stage = recipe.stages[number]
    with unfilled():
        counted = list(built(recipe, number, fingerprint).parameters())
    parameters, size = sum(p.numel() for p in counted), sum(p.numel() * p.element_size() for p in counted)
    trained = sum(p.numel() * p.element_size() for p in counted if p.requires_grad)
    if total is not None and size + 3 * trained > IMPOSSIBLE * total:
        return Need(stage.name, parameters, size, 0, None)
    probed = largest(recipe, stage, fingerprint)
    found = estimate_of(fabric, built(recipe, number, fingerprint), probed, stage, 1)
    return Need(stage.name, parameters, size, bytes_of(probed) // len(probed.patients) * found.patients, found)


def built(recipe: Recipe, number: int, fingerprint: Fingerprint) -> Trainee:
    """The model with a stage's objective, as training would build them."""
    return trainee_of(build_model(recipe.model, recipe.encoders, fingerprint, recipe.seed), recipe, fingerprint, number)


@contextmanager
def unfilled() -> Iterator[None]:
    """Weights that are made meanwhile have shapes and no memory, each from when its module has it."""

    def empty(module: nn.Module, name: str, weight: nn.Parameter) -> Any:  # what it gives is registered instead
        return None if weight.is_meta else nn.Parameter(weight.detach().to("meta"), weight.requires_grad)

    hook = register_module_parameter_registration_hook(empty)
    try:
        yield
    finally:
        hook.remove()


def fingerprint_of(place: Path) -> Fingerprint:
    """The fingerprint in a file.

    Raises:
        RecipeError: it is none.
    """
    try:
        return Fingerprint.open(place)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{place} is no fingerprint", "a run's model/fingerprint.json", "check the path") from error


def assumed(recipe: Recipe) -> tuple[Fingerprint, list[str]]:
    """A fingerprint of records that nobody has seen, as large as they may well be, and in words what of it counts for this recipe."""
    said: list[str] = []
    standards = recipe.standards()
    tokenizer, rate, terms = None, Fingerprint.rate_hz, dict[str, float]()
    codes, genes = dict[str, Scale](), dict[str, Scale]()
    match standards.get(Modality.TEXT):
        case TextStandard(tokenizer=str(place)):
            tokenizer = import_tokenizer(place)
        case TextStandard() as text:
            tokenizer = _tokenizer(recipe, text)
            said.append(f"assumed a vocabulary of all {text.vocabulary} word pieces")
        case TfidfStandard() as text:
            terms = {f"term{n}": 1.0 for n in range(text.vocabulary)}
            said.append(f"assumed a vocabulary of all {text.vocabulary} terms")
    if Modality.TABLE in standards:
        codes = {f"code{n}": Scale(n, 0.0, 1.0, 10) for n in range(CODES)}
        said.append(f"assumed {CODES} codes in tables")
    if Modality.OMICS in standards:
        genes = {f"G{n}_rna": Scale(n, 0.0, 1.0, 10) for n in range(GENES)}
        said.append(f"assumed {GENES} genes")
    if Modality.SIGNAL in standards and standards[Modality.SIGNAL].rate_hz is None:
        rate = RATE_HZ
        said.append(f"assumed signals of {RATE_HZ:.0f} Hz")
    if any(stage.most is None for stage in recipe.stages):
        said.append(f"assumed {RECORDS} records a patient and modality where `most: null` shows all")
    return Fingerprint(tokenizer, codes, genes, rate_hz=rate, terms=terms), said


def _tokenizer(recipe: Recipe, text: Any) -> str:
    """One that knows the names of structures and the words of questions, and has as many word pieces as the recipe allows, as JSON."""
    asked = [words for task in recipe.tasks.values() for words in task.asked()]
    names = " ".join([*(word for structure in recipe.structures().values() for word in structure.names), *asked])
    made = json.loads(train_tokenizer([names] * 2, text.vocabulary, text.languages))
    known = made["model"]["vocab"]
    known |= {f"made-up {n}": n for n in range(len(known), text.vocabulary)}
    return json.dumps(made)


def largest(recipe: Recipe, stage: Stage, fingerprint: Fingerprint, patients: int = PROBED) -> Batch:
    """Made-up patients who have all that a stage can show, in the largest size, with every label that it asks for."""
    kinds = kinds_of(recipe, stage)
    count = {m: stage.most or max(RECORDS, len(kinds.get(m, ()))) for m in recipe.encoders}
    batch = phantom.batch(recipe.standards(), {f"p{n}": count for n in range(patients)}, kinds=kinds, full=fingerprint)
    for ragged in batch.payloads.values():
        ragged.time_h = torch.zeros_like(ragged.time_h)  # an answer is of the time of its question
    structures = recipe.structures(fingerprint)
    for task in stage.objective.labelled():
        structure, everyone = structures[task], torch.ones(patients, dtype=torch.bool)
        if isinstance(structure, Finding):
            batch.targets[task] = Target(_known(structure, patients), everyone)
            continue
        shown, draws = batch.payloads[structures[task].modality], torch.Generator().manual_seed(0)
        masks = [torch.randint(structures[task].labels, v.shape[1:], generator=draws) for v in shown.values]
        batch.targets[task] = Target(masks, torch.ones(len(masks), dtype=torch.bool))
    return batch


def _known(finding: Finding, patients: int) -> Tensor:
    """Made-up answers of so many patients, of each kind as many."""
    order, k = torch.arange(patients).float(), len(finding.names)
    if finding.outcome == "survival":
        return torch.stack([patients - order, torch.ones(patients)], 1)
    if finding.outcome == "findings":
        return (order[:, None] + torch.arange(k)) % 2
    return order % (2 if finding.outcome == "class" else k)


def kinds_of(recipe: Recipe, stage: Stage) -> Mapping[Modality, Sequence[str]]:
    """The kinds of record that a stage's objective tells apart, of each modality."""
    found: dict[Modality, tuple[str, ...]] = {}
    for part in parts(stage.objective):
        if isinstance(part, Instruct):
            pairs = [(pair.instruction, pair.answer) for pair in part.pairs]
            found[Modality.TEXT] = tuple(kind for pair in pairs for kind in pair)
        elif isinstance(part, Between) and (part.source_kind or part.target_kind):
            shown = part.source_kind or "made-up"
            found |= {m: (shown,) for m in recipe.encoders if m is not part.target}
            found[part.target] = (part.target_kind or shown, shown)
    return found


def bytes_of(batch: Batch) -> int:
    """Of a batch's arrays and masks."""
    size = lambda values: sum(
        v.numel() * v.element_size() for v in ([values] if isinstance(values, Tensor) else values)
    )
    return sum(size(r.values) for r in batch.payloads.values()) + sum(size(t.values) for t in batch.targets.values())
