"""Records that could be: drawn by a run whose last stage learned to (`latent_diffusion`), or translated (`translation`).

nobody ────────────────┐
a patient's records ───┼── the last stage's objective ── an image or a volume, as harmonised, lying where a training record might
files of one patient ──┘
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from ..adaptation.plan import AdaptError
from ..cohort import Cohort
from ..harmonise.loader import Loader
from ..models import Model
from ..objectives import LatentDiffusion, LatentDiffusionObjective, Translation, TranslationObjective
from ..objectives.between import of_kind
from ..schema import Batch, Modality, Payload, Ragged, Record
from ..training import Run
from .predict import one_patient

By = Literal["latent_diffusion", "translation"]
TEMPLATES, AT_ONCE = 64, 16
"""Training records that say of what shape and spacing one might be; records made together."""


def makes(run: Run) -> dict[By, LatentDiffusion | Translation]:
    """What a run's last stage learned to make, by objective; empty where it learned to make nothing."""
    found: dict[By, LatentDiffusion | Translation] = {}
    for part in run.backbone.parts:
        if isinstance(part, LatentDiffusion | Translation):
            found.setdefault(part.kind, part)
    return found


@dataclass(frozen=True, slots=True)
class Maker:
    """A run's model, and what its last stage learned to make records with."""

    run: Run
    model: Model
    spec: LatentDiffusion | Translation
    objective: LatentDiffusionObjective | TranslationObjective

    @classmethod
    def of(cls, run: Run | str | Path, by: By | None = None) -> Self:
        """Of a run.

        Args:
            run: pretrained, or its folder.
            by: which objective, where the last stage had both.
        Raises:
            AdaptError: it learned to make nothing, or not by this; it learned both, and none is named.
        """
        run = (run if isinstance(run, Run) else Run.open(run)).backbone
        there = makes(run)
        if not there or (by is not None and by not in there):
            raise AdaptError(
                f"the run {run.path}, whose last stage did not learn {by or ' or '.join(get_args(By))}",
                f"a last stage with {' or '.join(there or get_args(By))}", "pretrain with one: see docs/synthesis.md",
            )  # fmt: skip
        if by is None and len(there) > 1:
            raise AdaptError(f"a run that learned {' and '.join(there)}", "one of them", "name it: --by, or by=")
        chosen = there[by or next(iter(there))]
        model = run.model()
        made = run.learned(chosen, model)
        assert isinstance(made, LatentDiffusionObjective | TranslationObjective)
        return cls(run, model, chosen, made)

    @property
    def target(self) -> Modality:
        """What is made."""
        return self.spec.target

    @torch.no_grad()
    def make(
        self, batch: Batch, at: Ragged, steps: int, guidance: float, generator: torch.Generator
    ) -> Tensor | list[Tensor]:
        """(m c …) as harmonised, NaN of whom nothing is shown that it could be translated from.

        Args:
            batch: what may be shown.
            at: where, and of whom.
            steps, guidance, generator: of the diffusion.
        """
        if isinstance(self.objective, LatentDiffusionObjective):
            return self.objective.sample(self.model, batch, steps, guidance, generator, at)[1]
        return self.objective.translate(self.model, batch, at)[1]


@dataclass(frozen=True, slots=True)
class Template:
    """A training record of the target, of which shape, spacing and which samples there are is kept, and nothing of what it shows."""

    record: Record
    payload: Payload
    row: Ragged


def templates(maker: Maker, cohort: Cohort, seed: int, most: int = TEMPLATES) -> list[Template]:
    """So many training records of the target, of patients drawn by the seed.

    Raises:
        AdaptError: there is none.
    """
    run, found = maker.run, list[Template]()
    loader = run.loader(cohort, run.split.train)
    has = [p for p in loader.patients if maker.target in loader.by_patient[p]]
    for number in np.random.default_rng(seed).permutation(len(has)).tolist():
        batch, _ = loader.parted([has[number]], [maker.target])
        wanted = maker.spec.wanted(batch) if batch is not None else None
        if wanted is not None:
            mine = {r.id: r for r in loader.by_patient[has[number]][maker.target]}
            row = wanted.only([0])
            found.append(Template(mine[row.ids[0]], loader.payload(mine[row.ids[0]]), row))
        if len(found) == most:
            break
    if not found:
        what = f"{maker.target} of kind {maker.spec.target_kind}" if maker.spec.target_kind else str(maker.target)
        raise AdaptError(
            f"no training record of {what}", "one, which says of what shape and spacing a record is", "give the cohort: --cohort"
        )  # fmt: skip
    return found


@dataclass(frozen=True, slots=True)
class Made:
    """Records that were made together.

    Args:
        values: (m c …) of each, as harmonised.
        shown: the batch of what was shown, its patients in the order of `values`.
        frames: of each, the patient's source of the same modality on its standard grid, in whose place it lies; None where a
            training record's shape was taken, which is nobody's place.
        like: the training record of whose kind, shape and spacing each is.
    """

    values: list[Tensor]
    shown: Batch
    frames: list[Payload | None]
    like: list[Template]


def seats(
    maker: Maker, batch: Batch, models: Sequence[Template], random: np.random.Generator
) -> tuple[Ragged, list[Template], list[int | None]]:
    """Where one record of each of the batch's patients lies: in the frame of their own source of the same modality, or as a template's.

    Returns:
        the records that say where, without what they show; the template of each; and which of the batch's records each lies in.
    """
    rows, chosen, within = list[Ragged](), list[Template](), list[int | None]()
    own = maker.spec.sources(batch).get(maker.target)
    for patient in range(len(batch.patients)):
        model = models[int(random.integers(len(models)))]
        mine = (
            []
            if own is None
            else torch.nonzero(own & (batch.payloads[maker.target].patient == patient)).flatten().tolist()
        )
        chosen.append(model)
        within.append(mine[0] if mine else None)
        rows.append(batch.payloads[maker.target].only(mine[:1]) if mine else model.row)
    blank = [torch.where(r.values[0].isfinite(), 0.0, torch.nan) for r in rows]
    if any(b.shape != blank[0].shape for b in blank):
        raise AdaptError(
            "records of different sizes to be made together",
            "one size",
            "give the encoder a `size`, or a `box` of whole volumes",
        )
    spacing = (
        None if any(r.spacing is None for r in rows) else torch.cat([r.spacing for r in rows if r.spacing is not None])
    )
    hours = torch.stack([r.time_h[0] if w is not None else torch.zeros(()) for r, w in zip(rows, within, strict=True)])
    kinds = [t.record.kind for t in chosen]
    n = len(rows)
    names = [f"synthetic-{i}" for i in range(n)]
    places_ = None if any(r.places is None for r in rows) else [r.places[0] for r in rows if r.places is not None]
    return Ragged(torch.stack(blank), torch.arange(n), hours, spacing, n, names, places_, kinds), chosen, within


def made(
    maker: Maker, loader: Loader | None, patients: Sequence[str], models: Sequence[Template], *, steps: int = 50, guidance: float = 2.0,
    seed: int = 0,
) -> Iterator[Made]:  # fmt: skip
    """One record for each of the names given, a few at a time; the same seed gives the same.

    Args:
        maker: of a run.
        loader: of whose records are shown; None for nobody's.
        patients: one or more records of a patient come of naming them so often.
        models: templates.
        steps, guidance: see `LatentDiffusionObjective.sample`.
        seed: of the noise and of which template is whose.
    """
    generator, random = torch.Generator().manual_seed(seed), np.random.default_rng([seed, 1])
    for start in range(0, len(patients), AT_ONCE):
        names = list(patients[start : start + AT_ONCE])
        batch = Batch({}, {}, names) if loader is None else visible(maker, loader.of(names))
        at, like, within = seats(maker, batch, models, random)
        values = list(maker.make(batch, at, steps, guidance, generator))
        frames: list[Payload | None] = [None] * len(names)
        if loader is not None and maker.target in batch.payloads:
            ids = batch.payloads[maker.target].ids
            frames = [
                None if w is None else loader.payload(_record(loader, n, maker.target, ids[w]))
                for n, w in zip(names, within, strict=True)
            ]
        yield Made(values, batch, frames, like)


def _record(loader: Loader, patient: str, modality: Modality, name: str) -> Record:
    return next(r for r in loader.by_patient[patient][modality] if r.id == name)


def visible(maker: Maker, batch: Batch) -> Batch:
    """The batch without what is asked for: nothing of it could be shown by mistake."""
    kept = dict[Modality, Ragged]()
    for m, ragged in batch.payloads.items():
        rows = torch.nonzero(~of_kind(ragged, maker.spec.target_kind)).flatten().tolist() if m is maker.target else None
        if rows is None or rows:
            kept[m] = ragged if rows is None else ragged.only(rows)
    return Batch(kept, {}, batch.patients)


def there(maker: Maker, loader: Loader, patients: Sequence[str]) -> list[str]:
    """Those of whom anything is there that is shown."""
    found = list[str]()
    for name in patients:
        if name in loader.by_patient:
            kinds = {m: [r.kind for r in mine] for m, mine in loader.by_patient[name].items()}
            found += [name] if _shows(maker, kinds) else []
    return found


def _shows(maker: Maker, kinds: Mapping[Modality, list[str]]) -> bool:
    """By the records' kinds alone, as `Between.sources` has it of a batch."""
    rows = {
        m: Ragged(
            [torch.zeros(0)] * len(k), torch.zeros(len(k), dtype=torch.int64), torch.zeros(len(k)), None, 1, k, None, k
        )
        for m, k in kinds.items()
    }
    return bool(maker.spec.sources(Batch(rows, {}, [""])))


def of_files(maker: Maker, files: Sequence[str | Path]) -> tuple[Loader, str]:
    """A loader of one patient's files, and what the patient is called in it.

    Raises:
        RecordError: a file that cannot be read, or nothing that the run reads.
        AdaptError: nothing that the target is made from.
    """
    loader, words = one_patient(maker.run, files, tuple(maker.run.recipe.encoders)), maker.spec.source_kind
    own = loader.by_patient["patient"]
    if words is not None:
        # A NIfTI by itself does not say whether it is MR or CT, its folder did: what is given is to be shown.
        plain = lambda r: r.kind.split()[0] in ("volume", "image")
        own |= {m: [replace(r, kind=f"{words} {r.kind}") if plain(r) else r for r in mine] for m, mine in own.items()}
    if not there(maker, loader, ["patient"]):
        kinds = ", ".join(sorted({r.kind for mine in own.values() for r in mine}))
        raise AdaptError(
            f"files of {kinds}", f"something that {maker.target} is made from", "give a file that is shown"
        )
    return loader, "patient"
