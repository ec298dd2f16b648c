"""Self-distillation: a student answers as its own momentum teacher does, which saw another part of the record.

DINO (Caron et al. 2021) compares what whole views are; iBOT (Zhou et al. 2022) also what each masked token is. Both need no second
modality, no negative and no reconstruction. The teacher, the centres and the schedules' clock stand in the objective: a checkpoint has
them, the model's weights do not. Losses and centres are means over the whole step, also where it is divided.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from ..fusion.pooling import balanced
from ..schema import Batch, Losses, Modality, Ragged, Tokens
from ..tokens import Encoder
from ..tokens.packing import with_values
from .objective import Backbone, Objective, ObjectiveFields, Structure
from .teacher import PrototypeHead, Teacher, token_loss, view_loss
from .views import draw, jittered

GLOBAL_VIEWS = 2
TEACHER_TEMPERATURES = (0.04, 0.07)
WARM = 0.3
"""The teacher's at the start, and after this share of the stage (Caron et al. 2021, section 3)."""
CENTRE_MOMENTUM = 0.9
STILL = 0.01
"""Of the stage, in which the prototypes stay as they are (the first of a hundred epochs, as in the code of Caron et al. 2021)."""


def _ordered(share: tuple[float, float]) -> tuple[float, float]:
    if not 0 < share[0] <= share[1] <= 1:
        raise ValueError(
            f"shares from {share[0]} to {share[1]}; the least must be above 0, and the most from there up to 1"
        )
    return share


Share = Annotated[tuple[float, float], AfterValidator(_ordered)]


class SelfDistillation(ObjectiveFields, ABC):
    """What DINO and iBOT have in common.

    Args:
        modalities: whose records teach themselves; None for all of the model's but tables.
        large: least and most of a record's tokens in each of the two views that the teacher sees too.
        small: of those that only the student sees.
        smalls: how many of these.
        region: tokens of the part of a larger record that all its views of a step are of, and have their shares of; None for the whole.
            Of a slide of thousands of tiles two views would seldom meet.
        jitter: how much brightness and contrast differ from view to view (0: not at all), in standard deviations of the record.
            The papers change colours much; on harmonised records it brought nothing in our small trials, and is off.
        prototypes: k, of the answers' distribution.
        width: of the head's hidden layers; its last but one has a quarter of it.
        temperature: of the student.
        momentum: of the teacher at the start; it rises to 1 along a cosine over the stage. The paper's 0.996 is for a hundred
            thousand steps and more: of `n` steps, 1 - momentum should be several times 1 / n.
        weight: in a hybrid objective.
    """

    modalities: tuple[Modality, ...] | None = None
    large: Share = (0.4, 1.0)
    small: Share = (0.05, 0.4)
    smalls: int = Field(default=6, ge=0)
    region: int | None = Field(default=None, ge=2)
    jitter: float = Field(default=0.0, ge=0)
    prototypes: int = Field(default=1024, ge=2)
    width: int = Field(default=256, ge=8)
    temperature: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.99, ge=0, le=1)
    weight: float = Field(default=1.0, ge=0)

    def named(self) -> set[Modality]:
        """Those that teach themselves."""
        return set(self.modalities or ())

    @property
    def masked(self) -> float:
        """The share of a large view's tokens that is hidden from the student."""
        return 0.0

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> SelfDistillationObjective:
        """The module: a head a modality, and a teacher that is the student as it stands."""
        return SelfDistillationObjective(self, model)


class Dino(SelfDistillation):
    """Views of a record are alike (DINO)."""

    kind: Literal["dino"] = "dino"


class Ibot(SelfDistillation):
    """Views of a record are alike, and masked tokens are what the teacher sees there (iBOT).

    Args:
        ratio: the share of a large view's tokens that is hidden from the student, in one box.
    """

    kind: Literal["ibot"] = "ibot"
    ratio: float = Field(default=0.3, gt=0, lt=1)

    @property
    def masked(self) -> float:
        """The same."""
        return self.ratio


@dataclass(frozen=True, slots=True)
class Said:
    """What a batch has to say to a term.

    Args:
        answers: (n k) the teacher's, of which the centre is made.
        loss: () the sum of the cross-entropies.
        count: () how many they are.
    """

    answers: Tensor
    loss: Tensor
    count: Tensor

    @property
    def numbers(self) -> Tensor:
        """(2,) how many answers, and how many cross-entropies."""
        return torch.stack([torch.full_like(self.count, len(self.answers)), self.count]).float()


class SelfDistillationObjective(Objective):
    """A head and a centre a modality; each that has a record of two tokens gives a term, or two."""

    done: Tensor

    def __init__(self, spec: SelfDistillation, model: Backbone) -> None:
        super().__init__()
        self.spec, self.heads, self.hidden = spec, nn.ModuleDict(), nn.ParameterDict()
        self.register_buffer("done", torch.zeros(()))
        for m in model.modalities:
            if m in spec.modalities if spec.modalities is not None else m is not Modality.TABLE:
                self.heads[m.value] = PrototypeHead(model.width, spec.width, spec.prototypes)
                self.register_buffer(f"centre_{m}", torch.zeros(spec.prototypes))
                if spec.masked:
                    self.hidden[m.value] = nn.Parameter(torch.randn(model.encoder(m).width) * 0.02)
                    self.register_buffer(f"centre_tokens_{m}", torch.zeros(spec.prototypes))
        self.teacher = Teacher(model, self.heads)
        self.seen: dict[str, Tensor] = {}
        """Of each term the mean (k,) of the teacher's answers in this step, to which its centre moves."""

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """The terms `dino/modality` and, with masking, `ibot/modality`."""
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        found: dict[str, Said] = {}
        for m in (Modality(name) for name in self.heads):
            if m in batch.payloads:
                found |= self._taught(model, batch, m, seed + m.number)
        return self._together(model, len(batch.patients), found)

    def _together(self, model: Backbone, patients: int, found: Mapping[str, Said]) -> Losses:
        """The terms as means over the whole step, which a part of it has its part of; where the centres are to move."""
        names = [f"{term}/{name}" for name in self.heads for term in ("dino", "ibot")]
        nothing = self.done.new_zeros(self.spec.prototypes + 2)
        own = [torch.cat([s.answers.sum(0), s.numbers]) if (s := found.get(n)) else nothing for n in names]
        whole = model.summed(torch.cat([*own, self.done.new_tensor([patients])]))
        share = patients / float(whole[-1])
        terms: dict[str, Tensor] = {}
        for name, row in zip(names, whole[:-1].view(len(names), -1), strict=True):
            if row[-1] > 0:
                terms[name] = found[name].loss / (row[-1] * share) if name in found else row.new_zeros(())
                if self.training:
                    self.seen[name] = row[:-2] / row[-2]
        weight = self.spec.weight / max(sum(name.startswith("dino/") for name in terms), 1)
        return Losses(terms, dict.fromkeys(terms, weight))

    def _taught(self, model: Backbone, batch: Batch, m: Modality, seed: int) -> dict[str, Said]:
        """What one modality has to say."""
        spec, ragged, encoder = self.spec, batch.payloads[m], model.encoder(m)
        shares = [spec.large] * GLOBAL_VIEWS + [spec.small] * spec.smalls
        looks = jittered(ragged, m, len(shares), spec.jitter, seed)
        embedded, values = _embedded(encoder, looks)
        views = draw(embedded, ragged.ids, shares, seed, encoder.position.scale, region=spec.region)
        large = views.first(len(views.record) * GLOBAL_VIEWS // len(shares))
        if not len(large.record):
            return {}
        with torch.no_grad():
            teacher, head = self.teacher.model, self.teacher.heads[m.value]
            shown = _after(teacher, m, large.of(*_embedded(teacher.encoder(m), looks[:GLOBAL_VIEWS])))
            told = head(balanced(shown))
        seen, hide, still = views.of(embedded, values), None, float(self.done) < STILL
        if spec.masked:
            records = len(large.record) // GLOBAL_VIEWS
            names = [f"{ragged.ids[r]}/{n // records}" for n, r in enumerate(large.record.tolist())]
            hide = draw(large.of(embedded), names, [(spec.masked, spec.masked)], seed, encoder.position.scale)
            place = encoder.position(encoder.placed(seen.position[hide.token]), seen.time_h[hide.token])
            blank = (self.hidden[m.value] + place).to(seen.values.dtype)
            seen = with_values(seen, seen.values.index_copy(0, hide.token, blank))
        seen = _after(model, m, seen)
        answers = F.log_softmax(self.heads[m.value](balanced(seen), still) / spec.temperature, 1)
        found = {f"dino/{m}": Said(told, *view_loss(answers, self._sharp(f"dino/{m}", told), views.record))}
        if hide is not None and len(hide.token):
            with torch.no_grad():
                told = head(shown.values[hide.token])
            answers = F.log_softmax(self.heads[m.value](seen.values[hide.token], still) / spec.temperature, 1)
            found[f"ibot/{m}"] = Said(told, *token_loss(answers, self._sharp(f"ibot/{m}", told), hide.view))
        return found

    def _centre(self, term: str) -> Tensor:
        """(k,) what is taken off the teacher's answers to a term."""
        kind, _, modality = term.partition("/")
        return self.get_buffer(f"centre_{modality}" if kind == "dino" else f"centre_tokens_{modality}")

    def _sharp(self, term: str, logits: Tensor) -> Tensor:
        """The teacher's probabilities: centred, so that no prototype is everybody's, and sharp, so that not all are."""
        first, last = TEACHER_TEMPERATURES
        temperature = first + (last - first) * min(float(self.done) / WARM, 1.0)
        return torch.softmax((logits - self._centre(term)) / temperature, 1)

    def begun(self, model: Backbone) -> None:
        """The teacher is the student as it stands."""
        self.teacher.follow(model, self.heads, 0.0)

    @torch.no_grad()
    def stepped(self, model: Backbone, done: float) -> None:
        """The teacher follows the student; the centres follow what the teacher said since the last step."""
        momentum = 1 - (1 - self.spec.momentum) * (1 + math.cos(math.pi * float(self.done))) / 2
        self.teacher.follow(model, self.heads, momentum)
        for term, mean in self.seen.items():
            self._centre(term).lerp_(mean, 1 - CENTRE_MOMENTUM)
        self.seen = {}
        self.done.fill_(done)


def _embedded(encoder: Encoder, looks: Sequence[Ragged]) -> tuple[Tokens, list[Tensor]]:
    """The tokens of records as they first look, and their values for each look; records that look alike are embedded once."""
    first = encoder.embed(looks[0])
    return first, [first.values if look is looks[0] else encoder.embed(look).values for look in looks]


def _after(model: Backbone, modality: Modality, tokens: Tokens) -> Tokens:
    """Embedded tokens where their modality's tower ends."""
    return model.alone(model.bridged(modality, model.encoder(modality).trunk(tokens)))
