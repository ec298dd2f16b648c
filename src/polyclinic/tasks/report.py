"""A report, written by the decoder that the run was pretrained with: `caption` (CoCa), or `retell` (M3FM).

It has no network of its own: the run's decoder writes, as it is or tuned to pairs of records and reports. What it writes is held against
two things that the model says apart from its words: how near the picture lies to "there is …" and "no …" (`supports`), and how much less
likely a sentence is without a part of the picture (`grounds`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Never

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..harmonise import Fingerprint, TextStandard
from ..harmonise.text import Language
from ..models import Model
from ..objectives import Caption, CaptionObjective, RetellObjective
from ..objectives.caption import OnTop
from ..objectives.language import END, first_word, next_words, words_of
from ..objectives.reported import Reports, Window, of_the_study
from ..objectives.words import UNTOLD, Seen, WordDecoder
from ..records.findings import prompts
from ..schema import Batch, Modality, Ragged, Target
from ..tokens.text import as_note
from .correctness import NAMES, correctness, f1, stacked
from .grounds import alone, parts_of, without
from .task import Predictions, Task, TaskError, TaskFields, Thing
from .wording import bleu, bleu_counts, words

GROUND_NATS = 0.5
"""A sentence rests on a part where it is less likely by as much without it: by the factor 0.6."""

FEWEST, TELLS = 5, 0.7
"""A finding is checked where so many training patients have it and have it not, and the comparison tells them apart with such an area
under the curve."""


class Report(TaskFields):
    """The report of a patient's other records.

    Text among the `inputs` stands for earlier reports, where the run's decoder was shown such (`caption` with `earlier: [text]`); the
    report itself is never read.

    Args:
        language: in which it is written, one of the text encoder's; only reports in it are references. None for whatever the run writes.
        words: the most word pieces.
    """

    kind: Literal["report"] = "report"
    language: Language | None = None
    words: int = Field(default=256, ge=4)

    def label(self, name: str) -> None:
        """Needs none: the patient's own report is the answer."""
        return

    def columns(self) -> tuple[str, ...]:
        """No column is a label."""
        return ()

    def asks(self, words: Mapping[str, str]) -> str:
        """Of any patient."""
        return "What does the report say, written from the patient's other records?"

    def build(self, name: str, model: Model) -> Never:
        """Refuse: it has no head of its own."""
        raise TaskError(
            f"task {name!r} is a report, which the run's own decoder writes", "a run whose last stage learned to write",
            "use `polyclinic adapt` on one",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence of a written report.

    Args:
        text: as it was written.
        findings: finding → status, as the labeller reads it.
        part: of `PARTS` of a picture or `BLOCKS` of a volume, on which it rests most; None where it rests on none, or where that cannot be
            told.
        nats: by how much less likely it is without that part.
        against: the findings on which the model's own comparison of the picture with words says otherwise.
        place: the part on the grid of its file, its score the nats; None where the file is not at hand.
    """

    text: str
    findings: Mapping[str, str]
    part: str | None
    nats: float
    against: tuple[str, ...]
    place: Thing | None = None

    @property
    def slices(self) -> tuple[int, int] | None:
        """Of a volume's part the first and last of the file's slices, counted from 1; None where that is not known."""
        if self.place is None or len(self.place.low) < 3:
            return None
        return math.floor(self.place.low[2] + 1e-6) + 1, math.ceil(self.place.high[2] - 1e-6)


class ReportTask(Task):
    """A writer, and from when on a finding counts as seen.

    Args:
        name, spec: the task.
        writer: the run's.
        standard, fingerprint: of its notes.
    """

    thresholds: Tensor

    def __init__(
        self, name: str, spec: Report, writer: CaptionObjective | RetellObjective, standard: TextStandard, fingerprint: Fingerprint
    ) -> None:  # fmt: skip
        super().__init__(name, spec)
        self.writer, self.standard, self.fingerprint = writer, standard, fingerprint
        self.register_buffer("thresholds", torch.full((len(NAMES),), torch.nan))

    def output(self, model: Model, batch: Batch) -> Tensor:
        """() nats a word of the batch's reports, from the batch's other records.

        Raises:
            TaskError: nobody of the batch has both.
        """
        ragged = batch.payloads.get(Modality.TEXT)
        others = [m for m in model.modalities if m is not Modality.TEXT and m in batch.payloads]
        if ragged is None or not (others or self.reads_reports):
            raise TaskError("patients without a report and records to write it from", "both", "ask of others")
        if isinstance(self.writer, CaptionObjective):
            terms = self.writer(model, batch, torch.Generator()).terms
            if not terms:
                raise TaskError("records from which the run's decoder does not write", "those of `caption`", "add them")
            return terms["caption/text"]
        texts, wanted = list(ragged.values), next_words(list(ragged.values), words_of(model, "a report").longest)
        seen, told = self._retold(model, batch, others)
        lengths = torch.tensor([len(text) for text in texts], device=wanted.device)
        wanted = wanted.where(told[ragged.patient].repeat_interleave(lengths), UNTOLD)
        return self.writer.decoder.loss(texts, Seen(seen.values, seen.group, ragged.patient), wanted)

    def _retold(self, model: Model, batch: Batch, others: Sequence[Modality]) -> tuple[Seen, Tensor]:
        """What a decoder of vectors sees of each patient, and (b,) bool of whom it sees anything."""
        assert isinstance(self.writer, RetellObjective)
        towers = model.towers(model.encode(Batch({m: batch.payloads[m] for m in others}, {}, batch.patients))).values()
        total = next(iter(towers)).vectors.new_zeros(len(batch.patients), model.embedding)
        for tower in towers:
            total = total.index_add(0, tower.patient, tower.vectors)
        told = total.abs().sum(1) > 0
        who = torch.nonzero(told).flatten()
        seen = self.writer.seen(F.normalize(total[who], dim=1))
        return Seen(seen.values, who[seen.group]), told

    def loss(self, output: Tensor, target: Target) -> Tensor | None:
        """The output itself."""
        return output

    def score(self, predictions: Predictions) -> dict[str, float]:
        """F1 of findings over all mentions, and BLEU-4; NaN without a reference."""
        known = predictions.labelled()
        if not len(known.patients):
            return {"finding_f1": float("nan"), "bleu_4": float("nan")}
        pairs = [(str(w), str(r)) for w, r in zip(known.outputs, known.targets, strict=True)]
        said = stacked([correctness(*pair, self.language) for pair in pairs]).sum((0, 1))
        counts = np.array([bleu_counts(words(w), words(r)) for w, r in pairs]).sum(0)
        return {"finding_f1": float(f1(said)), "bleu_4": float(bleu(counts))}

    @property
    def language(self) -> str:
        """In which its findings are read."""
        return self.spec.language or "en"

    @property
    def window(self) -> Window | None:
        """What of a patient's records is shown at what time; None where time is not asked for."""
        spec = self.writer.spec
        return spec.window(list(Modality)) if isinstance(spec, Caption) else None

    @property
    def reads_reports(self) -> bool:
        """Whether the decoder is shown earlier reports."""
        return self.window is not None and Modality.TEXT in self.window.earlier

    def told(self, model: Model, batch: Batch, reports: Reports | None = None, earlier: bool = True) -> Batch:
        """What each patient's report is written from.

        Args:
            model: the run's.
            batch: of any patients; the decoder's own rule leaves out what it must not see.
            reports: when they are written, one of each patient; None for now.
            earlier: whether what was before the study is shown, where the decoder's recipe has it.
        """
        if isinstance(self.writer, CaptionObjective):
            return self.writer.told(model, batch, reports, earlier)
        return Batch({m: r for m, r in batch.payloads.items() if m is not Modality.TEXT}, {}, batch.patients)

    @torch.no_grad()
    def write(
        self, model: Model, batch: Batch, reports: Reports | None = None, earlier: bool = True
    ) -> dict[int, Tensor]:
        """Of each of the batch's patients who is written of, by number, (w,) word numbers without the first and the end; see `told`."""
        spec = self.spec
        if isinstance(self.writer, CaptionObjective):
            return self.writer.write(model, batch, spec.words, spec.language, reports=reports, earlier=earlier)
        return self.writer.write(model, batch, spec.words, spec.language)

    @torch.no_grad()
    def margins(self, model: Model, told: Batch) -> Tensor:
        """(b f) by how much nearer each patient's picture lies to "there is …" than to "no …" of `NAMES`; NaN without a picture.

        Args:
            model: the run's.
            told: what reports are written from; pictures of earlier studies do not count.

        Source: prompts as in CheXzero (Tiu et al. 2022), but their difference instead of a chance, which they are not.
        """
        asked = prompts(self.language)
        texts = [text for name in NAMES for both in asked[name] for text in both]
        vectors = self._placed(model, texts).view(len(NAMES), 2, -1, model.embedding).mean(2)
        apart = F.normalize(vectors[:, 0], dim=1) - F.normalize(vectors[:, 1], dim=1)
        found = torch.full((len(told.patients), len(NAMES)), torch.nan, device=apart.device)
        shown = {m: r for m, r in self._study(told).payloads.items() if m in (Modality.IMAGE, Modality.VOLUME)}
        for tower in model.towers(model.encode(Batch(shown, {}, told.patients))).values():
            found[tower.patient] = tower.vectors @ apart.T
        return found

    def _study(self, told: Batch) -> Batch:
        """Of what is shown, what is not of an earlier study."""
        return told if self.window is None else of_the_study(told, self.window.study_h)

    def _placed(self, model: Model, texts: Sequence[str]) -> Tensor:
        """(s e) unit vectors of sentences."""
        notes = [as_note(text, self.standard, self.fingerprint, self.spec.language) for text in texts]
        return model.towers(
            model.encode(Batch({Modality.TEXT: _notes(notes)}, {}, [str(n) for n in range(len(notes))]))
        )[Modality.TEXT].vectors

    def learn_thresholds(self, margins: Tensor, said: np.ndarray, denied: np.ndarray) -> None:
        """From when on a finding counts as seen, where the comparison tells the training patients apart at all.

        Args:
            margins: (p f).
            said, denied: (p f) bool: who has it in the report as present, and as absent.
        """
        from sklearn.metrics import roc_auc_score

        for i in range(len(NAMES)):
            there = np.isfinite(margins[:, i].numpy())
            yes, no = margins[:, i].numpy()[said[:, i] & there], margins[:, i].numpy()[denied[:, i] & there]
            if min(len(yes), len(no)) < FEWEST:
                continue
            both, truth = np.r_[yes, no], np.r_[np.ones(len(yes)), np.zeros(len(no))]
            if roc_auc_score(truth, both) < TELLS:
                continue
            cuts = (np.sort(both)[1:] + np.sort(both)[:-1]) / 2
            balanced = [(yes > c).mean() + (no <= c).mean() for c in cuts]
            self.thresholds[i] = float(cuts[int(np.argmax(balanced))])

    def against(self, said: Mapping[str, str], margins: Tensor) -> tuple[str, ...]:
        """The findings on which the picture (its margins (f,)) says the contrary of a sentence."""
        seen = dict(zip(NAMES, zip(margins.tolist(), self.thresholds.tolist(), strict=True), strict=True))
        contrary = {"present": lambda m, t: m <= t, "absent": lambda m, t: m > t, "uncertain": lambda m, t: False}
        return tuple(n for n, status in said.items() if n in seen and contrary[status](*seen[n]))

    @torch.no_grad()
    def grounds(self, model: Model, told: Batch, written: Tensor, ends: Sequence[int]) -> list[dict[str, float]] | None:
        """Of each sentence, by how many nats it is less likely when a part of the picture or volume is painted over with its mean.

        Args:
            model: the run's.
            told: what the report of one patient was written from.
            written: (w,) word numbers, without the first.
            ends: of each sentence, the number of the word after its last.
        Returns:
            a part a key, of the study's one image and of its one volume; None where there is neither. Attention is not asked: behind the
            encoder every token knows of the others.
        """
        pictures = self.pictures(told)
        if not pictures:
            return None
        whole = self._nats(model, told, written, ends)
        nats = {
            part: self._nats(model, without(told, row, part), written, ends) - whole
            for modality, row in pictures.items()
            for part in parts_of(modality)
        }
        return [{part: float(each[i]) for part, each in nats.items()} for i in range(len(ends))]

    def pictures(self, told: Batch) -> Mapping[Modality, int]:
        """Of image and volume the number, among all that are shown, of the study's only one."""
        return alone(self._study(told), told)

    def _nats(self, model: Model, told: Batch, written: Tensor, ends: Sequence[int]) -> Tensor:
        """(s,) nats of each sentence, given what the one report is written from."""
        first = torch.tensor([first_word(words_of(model, "a report"), self.spec.language)], device=written.device)
        text, asked = torch.cat([first, written]), torch.cat([written, written.new_full((1,), END)])
        if isinstance(self.writer, CaptionObjective):
            shown = self.writer.shown(model.encode(told))
            assert shown is not None
            seen = self.writer.seen(shown)
        else:
            seen, _ = self._retold(model, told, [m for m in told.payloads if m in model.modalities])
        decoder = self.writer.decoder
        if isinstance(decoder, OnTop):
            own = model.encode(Batch({Modality.TEXT: _notes([text])}, {}, ["0"])).own(Modality.TEXT)
            logits = decoder(own, seen, torch.ones_like(text, dtype=torch.bool))
        else:
            assert isinstance(decoder, WordDecoder)
            logits = decoder([text], seen)
        each = F.cross_entropy(logits.float(), asked, reduction="none")
        return torch.stack([each[start:end].sum() for start, end in zip([0, *ends[:-1]], ends, strict=True)])


def _notes(texts: Sequence[Tensor]) -> Ragged:
    """Word numbers as a batch's notes, each of a patient of its own."""
    at = texts[0].device
    rows = torch.arange(len(texts), device=at)
    return Ragged(
        list(texts), rows, torch.zeros(len(texts), device=at), None, len(texts), [str(n) for n in rows.tolist()]
    )
