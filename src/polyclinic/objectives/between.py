"""From some of a patient's records to another: which are shown, and which is asked for."""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Mapping

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..schema import Batch, Modality, Ragged, Tokens
from ..tokens import join, select
from .objective import Backbone, DecoderFields, ObjectiveError


class Between(DecoderFields, ABC):
    """What every objective has that asks for a whole record and shows the patient's others.

    A record that is asked for is never shown. Records of one modality are told apart by a word of their kind: MR and CT are both volumes.

    Args:
        target: whose records are asked for.
        source: whose records are shown; None for all modalities but the target's, and of the target's the other kinds.
        target_kind: words that a record's kind has to have to be asked for ("CT"); None asks for all.
        source_kind: words that a record's kind has to have to be shown ("MR"), whatever its modality; None shows all.
    """

    target: Modality
    source: tuple[Modality, ...] | None = None
    target_kind: str | None = Field(default=None, min_length=1)
    source_kind: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _apart(self) -> Between:
        if self.target in (self.source or ()) and self.target_kind is None:
            raise ValueError(
                f"{self.target} from {self.target}, all of which are asked for: say which with `target_kind`"
            )
        if self.target_kind is not None and self.target_kind == self.source_kind:
            raise ValueError(
                f"records of kind {self.target_kind!r} are asked for and shown: none would be left to show"
            )
        return self

    def named(self) -> set[Modality]:
        """The target, and those that are shown."""
        return {self.target, *(self.source or ())}

    def wanted(self, batch: Batch) -> Ragged | None:
        """The records that are asked for; None where there are none."""
        ragged = batch.payloads.get(self.target)
        if ragged is None:
            return None
        rows = torch.nonzero(of_kind(ragged, self.target_kind)).flatten().tolist()
        return ragged.only(rows) if rows else None

    def sources(self, batch: Batch) -> dict[Modality, Tensor]:
        """Of each modality in the batch of which anything is shown, which of its records (m,) bool are."""
        found: dict[Modality, Tensor] = {}
        for m, ragged in batch.payloads.items():
            own = m is self.target
            if m in self.source if self.source is not None else not own or self.target_kind is not None:
                rows = of_kind(ragged, self.source_kind)
                found[m] = rows & ~of_kind(ragged, self.target_kind) if own else rows
        return {m: rows for m, rows in found.items() if bool(rows.any())}

    def shown(self, model: Backbone, batch: Batch, tokens: Mapping[Modality, Tokens] | None = None) -> Tokens | None:
        """The tokens of the records that are shown, in the fusion's width; None where there are none.

        Args:
            model: that encodes them.
            batch: b patients.
            tokens: the whole records', where somebody made them already.
        """
        rows = {m: keep for m, keep in self.sources(batch).items() if m in model.modalities}
        if not rows:
            return None
        if tokens is None:
            payloads = {m: batch.payloads[m].only(torch.nonzero(keep).flatten().tolist()) for m, keep in rows.items()}
            chosen = dict(model.encode(Batch(payloads, {}, batch.patients)))
        else:
            chosen = {m: select(tokens[m], keep[tokens[m].record]) for m, keep in rows.items()}
        if not model.own_trunks:  # early fusion is the only trunk that they have
            return model.fuse(chosen, len(batch.patients)).tokens
        return join([chosen[m] for m in Modality if m in chosen])


def of_kind(ragged: Ragged, words: str | None) -> Tensor:
    """(m,) bool, which records' kinds have these words, whole and in this order; all where None.

    Raises:
        ObjectiveError: nobody knows the records' kinds.
    """
    device = ragged.patient.device
    if words is None:
        return torch.ones(len(ragged), dtype=torch.bool, device=device)
    if ragged.kinds is None:
        raise ObjectiveError(
            f"records of which those of kind {words!r} are chosen, and whose kinds nobody knows",
            "`Ragged.kinds`, as the loader fills it",
            "give each record's kind",
        )
    sought = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)", re.IGNORECASE)
    return torch.tensor([sought.search(kind) is not None for kind in ragged.kinds], dtype=torch.bool, device=device)


def lying_at(batch: Batch, spec: Between, at: Ragged | None) -> Ragged:
    """Records that say where an answer lies, and of whom; their values are not what is answered from.

    Args:
        batch: of patients.
        spec: of what is asked for.
        at: what the caller gave. Without it, of the target's modality each patient's first record that is shown, for an MR says where
            the CT is; where none is, the patients' own records that are asked for.
    Raises:
        ObjectiveError: nothing says where.
    """
    rows = spec.sources(batch).get(spec.target)
    if at is None and rows is not None:
        ragged, first = batch.payloads[spec.target], dict[int, int]()
        for row in torch.nonzero(rows).flatten().tolist():
            first.setdefault(int(ragged.patient[row]), row)
        return ragged.only(list(first.values()))
    at = at or spec.wanted(batch)
    if at is None:
        raise ObjectiveError(
            f"an answer in {spec.target} of patients without any record that says where it lies",
            "`at`: records of the shape and spacing that are wanted, with any finite values",
            "give them",
        )
    return at
