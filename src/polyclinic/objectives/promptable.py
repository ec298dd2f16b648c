"""Promptable segmentation: what is meant is shown by points, a box or words, and its mask is the answer.

    points, box ── maps of every sample ──────────────────────────────┐
    record ── samples ────────────────────────────────────────────────┤
    record's fused tokens ─┐                                          ├─ MaskDecoder ── mask
    words ── text encoder ─┴─ one Transformer ── the record's tokens ─┘

The questions are SAM's (Kirillov et al. 2023) and, by words, those of the universal model driven by names (Liu et al. 2023). Points and
boxes are drawn as maps beside the samples: what is shown early is followed more closely than tokens that a decoder meets late
(nnInteractive, Isensee et al. 2025). A question is about one structure, so that data sets that mask different ones are learned
together: nobody is asked of what is not masked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..schema import Batch, Losses, Modality, Ragged, Tokens
from ..tokens import Layout, Transformer, select
from ..tokens.packing import with_values
from .language import words_of
from .objective import Backbone, DecoderFields, Objective, ObjectiveError, Structure
from .segmentation import dice_cross_entropy, mask_decoder

Way = Literal["point", "box", "text"]
MAPS = 3
"""Beside the samples: points on the structure, points off it, the box."""
RADIUS = 2.0
"""Of a point's ball, in samples."""
SHAKEN = 0.1
"""How far a box's corners are off at most while training, of its sides (Kirillov et al. 2023, appendix A)."""


class Promptable(DecoderFields):
    """Which structures are asked for, and how they are shown.

    Args:
        tasks: the recipe's segmentation tasks, of one modality; each record is asked only of what its own mask shows.
        prompts: the ways, one of them for each question.
        clicks: points at most; the first is on the structure, others may be off it.
        corrections: further points at most, each where the mask that was drawn until then is wrong (Xu et al. 2016; Kirillov et al.
            2023, section 5): on the structure where some is missing, off it where too much was drawn. Each costs a decoder's forward.
        width, depth, heads: of the Transformer in which tokens and words meet.
        channels: of the mask decoder.
        weight: in a hybrid objective.
    """

    kind: Literal["promptable"] = "promptable"
    tasks: tuple[str, ...] = Field(min_length=1)
    prompts: tuple[Way, ...] = Field(default=("point", "box"), min_length=1)
    clicks: int = Field(default=3, ge=1)
    corrections: int = Field(default=0, ge=0)
    width: int = Field(default=64, ge=8)
    channels: int = Field(default=8, ge=2)
    weight: float = Field(default=1.0, ge=0)

    def named(self) -> set[Modality]:
        """Text, where words show what is meant."""
        return {Modality.TEXT} if "text" in self.prompts else set()

    def labelled(self) -> dict[str, int | None]:
        """All masks of its tasks."""
        return dict.fromkeys(self.tasks)

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> PromptableObjective:
        """The module, with its decoder."""
        return PromptableObjective(self, model, {task: structures[task] for task in self.tasks})


@dataclass(frozen=True, slots=True)
class Prompt:
    """What shows one structure of one record; at least one of the three.

    Args:
        points: (p k) float32, samples along the axes (z y x) or (y x), 0 the first one's centre.
        on: (p,) bool, whether each point is on the structure.
        box: (2 k) float32, the first and the last sample along each axis.
        words: (w,) int64, its name as the encoder of words reads it.
    """

    points: Tensor | None = None
    on: Tensor | None = None
    box: Tensor | None = None
    words: Tensor | None = None


class PromptableObjective(Objective):
    """The mask decoder, and the Transformer in which a record's tokens and words meet."""

    def __init__(self, spec: Promptable, model: Backbone, structures: Mapping[str, Structure]) -> None:
        super().__init__()
        self.spec, self.structures = spec, structures
        modalities = {s.modality for s in structures.values()}
        if len(modalities) > 1:
            raise ObjectiveError(
                f"a promptable segmentation of {' and '.join(sorted(modalities))}",
                "tasks of one modality",
                "use two objectives",
            )
        (self.modality,) = modalities
        self.decoder = mask_decoder(model, self.modality, 1, spec.channels, MAPS)
        self.reads = "text" in spec.prompts
        if self.reads:
            words_of(model, "prompts of words")
            if not all(s.words for s in structures.values()):
                raise ObjectiveError(
                    "prompts of words for a model that reads none in their order",
                    "an encoder of words: bert, gpt or llama",
                    "take one, or drop the prompt",
                )
            self.enter, self.leave = nn.Linear(model.width, spec.width), nn.Linear(spec.width, model.width)
            self.spell = nn.Linear(model.width, spec.width)
            self.blocks = Transformer(spec.width, spec.depth, spec.heads)

    def segment(self, model: Backbone, tokens: Tokens, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """Logits of the structures that are meant.

        Args:
            model: that is asked.
            tokens: the m records' fused tokens of this modality, in their order.
            images: (m 1 z y x) or (m 1 y x), the records.
            prompts: m of them.
        Returns:
            (m z y x) or (m y x)
        """
        maps = torch.stack([drawn(prompt, images.shape[2:], images.device) for prompt in prompts])
        if self.reads and any(prompt.words is not None for prompt in prompts):
            tokens = self._told(model, tokens, prompts)
        return self.decoder(tokens, torch.cat([images, maps.to(images.dtype)], 1))[:, 0]

    def _told(self, model: Backbone, tokens: Tokens, prompts: Sequence[Prompt]) -> Tokens:
        """The records' tokens, having seen the words of their prompt."""
        n, at = len(tokens.values) // len(prompts), tokens.values.device
        rows = [self.enter(tokens.values)]
        owners = [torch.arange(len(prompts), device=at).repeat_interleave(n)]
        for number, prompt in enumerate(prompts):
            if prompt.words is not None:
                rows.append(self._words(model, prompt.words))
                owners.append(torch.full((len(rows[-1]),), number, device=at))
        record = torch.cat(owners)
        order = torch.argsort(record, stable=True)
        met = self.blocks(torch.cat(rows)[order], Layout.of(record[order]))
        back = torch.empty_like(met).index_copy(0, order, met)[: len(tokens.values)]
        return with_values(tokens, tokens.values + self.leave(back))

    def _words(self, model: Backbone, words: Tensor) -> Tensor:
        """The tokens of a name, (w d)."""
        encoder, zero = words_of(model, "prompts of words"), torch.zeros(1, device=words.device)
        note = Ragged([words], zero.long(), zero, None, 1, ["name"])
        return self.spell(model.bridged(Modality.TEXT, encoder(note)).values)

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """The term `promptable/task` of each task with a mask in the batch: a structure of each record, shown in one way."""
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        known = {t: m for t in self.structures if (m := batch.targets.get(t)) is not None and bool(m.mask.any())}
        if self.modality not in batch.payloads or not known:
            return Losses({}, {})
        ragged, tokens = batch.payloads[self.modality], model.encode(batch) if tokens is None else tokens
        fused = model.fuse(tokens, len(batch.patients)).tokens
        mine = select(fused, fused.modality == self.modality.number)
        assert isinstance(ragged.values, Tensor)
        each = len(mine.values) // len(ragged)
        found: dict[str, Tensor] = {}
        for number, (task, target) in enumerate(known.items()):
            draws = torch.Generator().manual_seed(seed + number)
            rows, masks, prompts = [], [], []
            for row in torch.nonzero(target.mask).flatten().tolist():
                if (asked := self.ask(target.values[row], self.structures[task], draws)) is not None:
                    rows.append(row)
                    masks.append(asked[0])
                    prompts.append(asked[1])
            if rows:
                keep = torch.zeros(len(ragged), dtype=torch.bool, device=mine.values.device)
                keep[rows] = True
                of, meant = select(mine, keep.repeat_interleave(each)), torch.stack(masks).to(mine.values.device)
                prompts = self._corrected(model, of, ragged.values[keep], prompts, meant, draws)
                logits = self.segment(model, of, ragged.values[keep], prompts)
                found[f"promptable/{task}"] = binary_loss(logits, meant)
        share = self.spec.weight / max(len(found), 1)
        return Losses(found, dict.fromkeys(found, share))

    @torch.no_grad()
    def _corrected(
        self, model: Backbone, tokens: Tokens, images: Tensor, prompts: list[Prompt], masks: Tensor, draws: torch.Generator
    ) -> list[Prompt]:  # fmt: skip
        """The prompts, with as many points more as are drawn for this batch, each on an error of what was drawn until then."""
        for _ in range(int(torch.randint(self.spec.corrections + 1, (), generator=draws, device=draws.device))):
            wrong = (self.segment(model, tokens, images, prompts) > 0) != masks
            prompts = [clicked(*each, draws) for each in zip(prompts, wrong, masks, strict=True)]
        return prompts

    def ask(self, mask: Tensor, structure: Structure, draws: torch.Generator) -> tuple[Tensor, Prompt] | None:
        """A structure of a mask (…) int64, as (…) bool, and what shows it; None where the mask has nothing to show.

        By words a structure that is not there is asked for too: its answer is an empty mask.
        """
        pick = lambda n: int(torch.randint(n, (), generator=draws, device=draws.device))
        way = self.spec.prompts[pick(len(self.spec.prompts))]
        there = [k for k in mask.unique().tolist() if 0 < k < structure.labels]
        if way == "text":
            label = pick(len(structure.names))
            return mask == label + 1, Prompt(words=structure.words[label].to(mask.device))
        if not there:
            return None
        meant = mask == there[pick(len(there))]
        if way == "box":
            return meant, Prompt(box=box_of(meant, draws))
        count = 1 + pick(self.spec.clicks)
        on = torch.tensor([i == 0 or bool(pick(2)) for i in range(count)], device=mask.device)
        points = [sample(meant if yes else ~meant, draws) for yes in on.tolist()]
        return meant, Prompt(points=torch.stack(points), on=on)


def clicked(prompt: Prompt, wrong: Tensor, meant: Tensor, draws: torch.Generator) -> Prompt:
    """A prompt with one of the places where a mask is wrong (…) bool shown too; as it is where none is."""
    if not bool(wrong.any()):
        return prompt
    point = sample(wrong, draws)
    on = meant[tuple(point.long())][None]
    if prompt.points is None or prompt.on is None:
        return replace(prompt, points=point[None], on=on)
    return replace(prompt, points=torch.cat([prompt.points, point[None]]), on=torch.cat([prompt.on, on]))


def drawn(prompt: Prompt, shape: Sequence[int], device: torch.device) -> Tensor:
    """(3 …) float32: 1 near a point on the structure, near a point off it, and in the box."""
    maps = torch.zeros(MAPS, *shape, device=device)
    axes = [torch.arange(n, device=device, dtype=torch.float32) for n in shape]
    if prompt.points is not None and prompt.on is not None:
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        for point, on in zip(prompt.points, prompt.on.tolist(), strict=True):
            near = (grid - point).square().sum(-1) <= RADIUS**2
            maps[0 if on else 1][near] = 1
    if prompt.box is not None:
        first, last = prompt.box
        sides = [(axis >= a) & (axis <= b) for axis, a, b in zip(axes, first.round(), last.round(), strict=True)]
        inside = sides[0]
        for side in sides[1:]:
            inside = inside[..., None] & side
        maps[2] = inside
    return maps


def sample(where: Tensor, draws: torch.Generator) -> Tensor:
    """(k) float32, one of the places where a (…) bool is true; its middle where it is so nowhere."""
    places = torch.nonzero(where)
    if not len(places):
        return torch.tensor([n // 2 for n in where.shape], device=where.device).float()
    return places[int(torch.randint(len(places), (), generator=draws, device=draws.device))].float()


def box_of(meant: Tensor, draws: torch.Generator) -> Tensor:
    """(2 k) float32, the box around a (…) bool, each corner shaken."""
    places = torch.nonzero(meant).float()
    corners = torch.stack([places.min(0).values, places.max(0).values])
    shaken = (
        SHAKEN
        * (corners[1] - corners[0])
        * (2 * torch.rand(corners.shape, generator=draws, device=draws.device).to(corners.device) - 1)
    )
    most = torch.tensor(meant.shape, device=corners.device) - 1
    return (corners + shaken).clamp(min=0).minimum(most.float())


def binary_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy and soft Dice of one structure a record: logits (m …), masks (m …) bool."""
    both = torch.stack([torch.zeros_like(logits), logits], 1)
    each = [dice_cross_entropy(a[None], b[None].long()) for a, b in zip(both, masks, strict=True)]
    return torch.stack(each).mean()
