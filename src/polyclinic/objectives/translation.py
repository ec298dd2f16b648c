"""Translation between modalities: a record is answered whole from the patient's other records, as CT from MR.

    source ── encoders ── [early fusion] ───────────────────┐ cross-attention
    target ── places only ── positions ── Transformer ── each place's samples, as harmonised

One pass and one answer: the mean of what could be there, and so smoother than any one record. (L1 instead would ask for the median, which
of what is rare, a lesion in one place of many, is its absence: training stays there.) Samples of what could be there:
`latent_diffusion`. A note from pictures: `caption`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..fusion import FusionFields
from ..schema import Batch, Losses, Modality, Ragged, Tokens
from ..tokens import Context, Encoder, EncoderFields, Layout, Transformer, select
from ..tokens.position import PhysicalPosition
from .between import Between, lying_at
from .generative import answer_loss
from .objective import Backbone, Objective, ObjectiveError, Structure


class Translation(Between):
    """Which records are answered from which, and by what.

    Args:
        target, source, target_kind, source_kind: see `Between`.
        width, depth, heads: of the decoder.
        weight: in a hybrid objective.
    """

    kind: Literal["translation"] = "translation"
    alike: ClassVar[tuple[str, ...]] = ("target",)
    source: tuple[Modality, ...] | None = Field(default=None, min_length=1)
    weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Translation:
        if self.target is Modality.TEXT:
            raise ValueError("a note is written, not translated sample by sample: use `caption`")
        return self

    def fits(self, encoders: Mapping[Modality, EncoderFields], width: int, fusion: FusionFields) -> None:
        """The target's tokens hold all of its samples, and something is left to show."""
        spec = type(encoders[self.target])
        if not spec.pieced:
            name = spec.model_fields["kind"].default
            raise ValueError(
                f"translation into {self.target}, of whose encoder's ({name}'s) tokens no record can be put together: "
                "use one whose tokens hold all samples, such as vit, vit3d, signal_vit, vivit, programmes or motion_vit"
            )
        if self.source is None and self.target_kind is None and len(encoders) < 2:
            raise ValueError(f"translation into {self.target}, and no other encoder reads anything to translate from")

    def build(self, model: Backbone, structures: Mapping[str, Structure]) -> TranslationObjective:
        """The module, with its decoder."""
        return TranslationObjective(self, model)


class TranslationObjective(Objective):
    """The decoder: it knows of a record where its tokens are, and looks at the patient's other tokens."""

    def __init__(self, spec: Translation, model: Backbone) -> None:
        super().__init__()
        encoder = model.encoder(spec.target)
        if type(encoder).pieces is Encoder.pieces:
            raise ObjectiveError(
                f"a translation into {spec.target}, whose encoder cannot put a record together of its tokens' pieces",
                "an encoder whose tokens hold all samples, such as vit, vit3d, signal_vit, vivit, programmes or motion_vit",
                "change the target or its encoder",
            )
        self.spec = spec
        x, y, z, t = encoder.position.scale.tolist()
        self.position = PhysicalPosition(spec.width, (x, y, z, t))
        self.hidden = nn.Parameter(torch.randn(spec.width) * 0.02)
        self.enter, self.norm = nn.Linear(model.width, spec.width), nn.LayerNorm(spec.width)
        self.blocks = Transformer(spec.width, spec.depth, spec.heads, context=spec.width)
        self.leave = nn.Linear(spec.width, encoder.answer_size)

    def answers(self, asked: Tokens, seen: Tokens) -> Tensor:
        """What would be at places.

        Args:
            asked: (n d) tokens of the target; only their places are read.
            seen: (k d) of the patients' other records.
        Returns:
            (n p)
        """
        shown = self.norm(self.enter(seen.values))
        # Both sides' places are written by one hand, so that a voxel finds what lies where it does.
        shown = shown + self.position(seen.position, seen.time_h).to(shown.dtype)
        x = self.hidden + self.position(asked.position, asked.time_h)
        context = Context.of(asked.patient, shown, seen.patient)
        return self.leave(self.blocks(x, Layout.of(asked.record), context=context))

    def forward(
        self, model: Backbone, batch: Batch, generator: torch.Generator, tokens: Mapping[Modality, Tokens] | None = None
    ) -> Losses:
        """The term `translation/target`, the mean square difference of samples as harmonised, of patients who are shown anything."""
        wanted, seen = self.spec.wanted(batch), self.spec.shown(model, batch, tokens)
        if wanted is None or seen is None:
            return Losses({}, {})
        encoder = model.encoder(self.spec.target)
        asked, mine = self._asked(encoder, wanted, seen)
        if not bool(mine.any()):
            return Losses({}, {})
        name = f"translation/{self.spec.target}"
        term = answer_loss(encoder, self.answers(asked, seen).float(), encoder.pieces(wanted)[mine])
        return Losses({name: term}, {name: self.spec.weight})

    @staticmethod
    def _asked(encoder: Encoder, ragged: Ragged, seen: Tokens) -> tuple[Tokens, Tensor]:
        """The tokens of records whose patient is shown anything, and which (n,) bool of all tokens they are."""
        with torch.no_grad():
            every = encoder.embed(ragged)
        mine = (seen.lengths > 0)[every.patient]
        return select(every, mine), mine

    @torch.no_grad()
    def translate(
        self, model: Backbone, batch: Batch, at: Ragged | None = None
    ) -> tuple[Ragged, Tensor | list[Tensor]]:
        """The target's array of each patient who is shown anything.

        Args:
            model: that was trained with it.
            batch: b patients; what they have of the target is not read.
            at: records of the target's modality that say where the answers lie, and of whom: shape, spacing, places, and which leads
                or genes there are (where values are finite). By default a patient's source of the same modality, or else the
                patients' own targets.
        Returns:
            the records that say where, and as their values what would be there, as harmonised; NaN for who is shown nothing.
        Raises:
            ObjectiveError: nothing says where.
        """
        at = lying_at(batch, self.spec, at)
        encoder, seen = model.encoder(self.spec.target), self.spec.shown(model, batch)
        every = encoder.pieces(at)
        pieces = torch.full(every.shape, torch.nan, device=every.device)
        if seen is not None:
            asked, mine = self._asked(encoder, at, seen)
            pieces[mine] = self.answers(asked, seen).float()
        return at, encoder.assembled(at, pieces)
