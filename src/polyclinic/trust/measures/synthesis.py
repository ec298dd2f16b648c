"""What a run makes, measured: how real what it draws is, how faithful what it translates, and whether either is some training patient's.

drawn ────── realism, memorisation ──┐   in the features of the run's own encoder, and of the pixels as a control
translated ─ fidelity ───────────────┼── evidence
both ─────── does an adapted run of the same backbone say the same of it as of the real record?
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...cohort import Cohort
from ...harmonise.loader import Loader
from ...harmonise.unread import GONE, UnreadRecordError, reading
from ...inference.synthesis import Maker, Template, made, makes, templates, there
from ...models import Model
from ...objectives import LatentDiffusion
from ...schema import Batch, Figure, Modality, Ragged, Record
from ...training import Run
from ...training.run import file_hash
from ..evidence import Evidence
from .intervals import DRAWS, EvidenceError
from .memorisation import Memorised, memorisation, own_copies
from .realism import Space, realism
from .translated import survives, translated

FEWEST_DRAWN, MOST_DRAWN, MOST_TRAIN = 64, 256, 4000
SIDE = {Modality.IMAGE: 32, Modality.VOLUME: 12}
"""Samples a side to which pixels are averaged: what differs below that is texture, of which a copy has little."""
KIND = {"latent_diffusion": "synthesis", "translation": "translation"}
OPEN = re.compile(r"cc0|cc[ -]by(?!.*\b(nc|nd)\b)|public domain|apache|mit\b|odbl|odc", re.IGNORECASE)
"""Licences under which a training record may be shown to anybody; one that says otherwise is not shown."""


@dataclass(frozen=True)
class Gathered:
    """Records of some patients, the target's alone.

    Args:
        records, whose: of each.
        features, pixels: (n f).
        pictures: of each a middle slice (y x), to look at.
    """

    records: list[Record]
    whose: list[str]
    features: np.ndarray
    pixels: np.ndarray


@torch.no_grad()
def features(model: Model, modality: Modality, ragged: Ragged) -> np.ndarray:
    """(m d) each record's vector where the model pools its modality's tokens, as if each were a patient's only record."""
    m = len(ragged)
    alone = replace(ragged, patient=torch.arange(m, device=ragged.patient.device), patients=m)
    tokens = model.encode(Batch({modality: alone}, {}, [str(n) for n in range(m)]))[modality]
    return model.pool(tokens).float().numpy()


def pixels(values: Tensor | Sequence[Tensor], modality: Modality) -> np.ndarray:
    """(m f) the samples, averaged to at most `SIDE` a side."""
    pool: Any = F.adaptive_avg_pool2d if modality is Modality.IMAGE else F.adaptive_avg_pool3d
    size = [min(n, SIDE[modality]) for n in values[0].shape[1:]]
    return torch.stack([pool(v.float(), size).flatten() for v in values]).numpy()


def gathered(maker: Maker, loader: Loader, patients: Sequence[str], first: bool) -> Gathered:
    """The records of the target of some patients; `first`: one of each, by id."""
    records, whose, seen, looks = list[Record](), list[str](), list[np.ndarray](), list[np.ndarray]()
    for batch in loader.each(32, patients, [maker.target]):
        wanted = maker.spec.wanted(batch)
        if wanted is None:
            continue
        owners = wanted.patient.tolist()
        if first:
            ids = wanted.ids
            order = sorted(range(len(owners)), key=lambda k, o=owners, i=ids: (o[k], i[k]))
            keep = [k for n, k in enumerate(order) if n == 0 or owners[order[n - 1]] != owners[k]]
            wanted = wanted.only(sorted(keep))
        names = [batch.patients[k] for k in wanted.patient.tolist()]
        mine = {r.id: r for name in set(names) for r in loader.by_patient[name][maker.target]}
        records += [mine[i] for i in wanted.ids]
        whose += names
        seen.append(features(maker.model, maker.target, wanted))
        looks.append(pixels(wanted.values, maker.target))
    if not records:
        raise EvidenceError(f"no {maker.target} of {len(patients)} patients", "at least one", "keep some on each side")
    return Gathered(records, whose, np.concatenate(seen), np.concatenate(looks))


@dataclass(frozen=True)
class Drawn:
    """All that the figures are made of, once.

    Args:
        train, held: records of the training side and of the test side, one a patient of these.
        values: (m c …) of each that was drawn.
        spaces: the run's features, and pixels.
        memorised: in each space.
        prompted: of those drawn for training patients and for test patients, how many are nearly the patient's own record.
    """

    train: Gathered
    held: Gathered
    values: list[Tensor]
    spaces: tuple[Space, ...]
    memorised: tuple[Memorised, ...]
    prompted: tuple[Figure, ...] = ()


def draw(
    run: Run, cohort: Cohort, *, draws: int = DRAWS, steps: int = 50, guidance: float = 1.0, seed: int = 0
) -> Drawn:
    """Draw as many records as there are test patients (64 to 256), each shown what one of them has, and lay them among the real ones.

    Args:
        run: whose last stage learned `latent_diffusion`.
        cohort: where it lies now.
        draws: resamples of the memorisation's intervals.
        steps, guidance: of the diffusion; guidance 1 is the distribution as it was learned, more makes it narrower.
        seed: of the noise, and of which training records are compared with where there are more than 4000.
    Raises:
        EvidenceError: no test or no training patient has such a record.
    """
    maker = Maker.of(run, "latent_diffusion")
    split, random = maker.run.split, np.random.default_rng(seed)
    learned = [split.train[i] for i in np.sort(random.permutation(len(split.train))[:MOST_TRAIN])]
    trained = maker.run.loader(cohort, tuple(learned))
    train = gathered(maker, trained, learned, first=False)
    tests = maker.run.loader(cohort, split.test)
    shown = tests.patients if maker.spec.source == () else tests.readable(tests.patients)
    held = gathered(maker, tests, shown, first=True)
    count, models = min(max(FEWEST_DRAWN, len(held.whose)), MOST_DRAWN), templates(maker, cohort, seed)
    make = lambda loader, who, seed: _made(maker, loader, who, models, steps, guidance, seed)
    who = [held.whose[i % len(held.whose)] for i in range(count)]
    values, looks = make(None if maker.spec.source == () else tests, who, seed)
    about = f"the {maker.target}s' encoder" + (
        "" if _learned(maker) else ", which no stage has trained (its weights are those of the start)"
    )
    spaces = (
        Space("features", train.features, held.features, looks, about),
        Space("pixels", train.pixels, held.pixels, pixels(values, maker.target), "the pixels"),
    )
    found = tuple(memorisation(s, train.whose, split.hash, draws=draws, seed=seed) for s in spaces)
    able = there(maker, trained, sorted(set(train.whose))) if maker.spec.source != () else []
    if not able:
        return Drawn(train, held, values, spaces, found)
    asked = trained.readable([able[i] for i in random.permutation(len(able))[:FEWEST_DRAWN]])
    others, seen = make(trained, asked, seed + 1)
    sides = zip(spaces, found, (seen, pixels(others, maker.target)), strict=True)
    prompted = list[Figure]()
    for space, of, theirs in sides:
        told: dict[str, Any] = {"limit": of.threshold, "split": split.hash, "draws": draws}
        prompted.append(own_copies(space.name, theirs, asked, space.train, train.whose, **told))
        prompted.append(own_copies(f"{space.name}_held_out", space.drawn, who, space.held, held.whose, **told))
    return Drawn(train, held, values, spaces, found, tuple(prompted))


def _made(
    maker: Maker, loader: Loader | None, who: Sequence[str], models: Sequence[Template], steps: int, guidance: float, seed: int
) -> tuple[list[Tensor], np.ndarray]:  # fmt: skip
    """A record for each of the names, and their features."""
    values, looks = list[Tensor](), list[np.ndarray]()
    for part in made(maker, loader, who, models, steps=steps, guidance=guidance, seed=seed):
        values += part.values
        looks.append(features(maker.model, maker.target, _as_ragged(part.values, [t.row for t in part.like])))
    return values, np.concatenate(looks)


def _as_ragged(values: Sequence[Tensor], like: Sequence[Ragged]) -> Ragged:
    """What was drawn as records, of the spacing of the templates."""
    m = len(values)
    spacing = (
        None if any(r.spacing is None for r in like) else torch.cat([r.spacing for r in like if r.spacing is not None])
    )
    return Ragged(
        torch.stack(list(values)), torch.arange(m), torch.zeros(m), spacing, m, [f"drawn-{n}" for n in range(m)]
    )


def _learned(maker: Maker) -> bool:
    """Whether any stage changed the encoder whose features are looked at: one that only draws may never read the target."""
    fresh = maker.run.model(pretrained=False).encoder(maker.target).state_dict()
    return any(not torch.equal(t, fresh[name]) for name, t in maker.model.encoder(maker.target).state_dict().items())


def synthesised(run: Run, cohort: Cohort, *, draws: int = DRAWS) -> list[Evidence]:
    """What was measured of what a pretrained run's last stage makes; nothing where it makes nothing.

    Args:
        run: pretrained.
        cohort: where it lies now.
        draws: resamples.
    """
    found = list[Evidence]()
    for by, spec in makes(run).items():
        maker = Maker.of(run, by)
        figures = [*_drawn(run, cohort, draws)] if isinstance(spec, LatentDiffusion) and spec.target in SIDE else []
        if by == "translation":
            figures += translated(maker, cohort, draws=draws)
        figures += survives(maker, cohort, draws=draws)
        reads = tuple(m.value for m in shown_to(maker))
        about = run.path.name, f"{KIND[by]} of {spec.target}", KIND[by], by, reads
        found.append(Evidence(*about, 0, run.split.hash, file_hash(run.weights), tuple(figures)))
    return found


def shown_to(maker: Maker) -> list[Modality]:
    """The modalities that it may be shown; none where it draws of nobody."""
    spec, own = maker.spec, maker.target
    if spec.source is not None:
        return [m for m in Modality if m in spec.source]
    return [m for m in maker.model.modalities if m is not own or spec.target_kind is not None]


def _drawn(run: Run, cohort: Cohort, draws: int) -> Iterator[Figure]:
    found = draw(run, cohort, draws=draws)
    for space, memorised in zip(found.spaces, found.memorised, strict=True):
        try:
            yield from realism(space, run.split.hash)
        except EvidenceError as error:
            nan, n = float("nan"), len(found.held.whose)
            yield Figure(f"frechet_{space.name}", nan, nan, nan, n, run.split.hash, f"not defined: {error.found}")
        yield from memorised.figures
    yield from found.prompted


@dataclass(frozen=True, slots=True)
class Pair:
    """What was drawn, beside the training record that it is nearest to.

    Args:
        drawn, real: (y x) in 0..1, a slice through the middle; None where it may not be shown.
        name: blake2b of the training record's id, not to be traced without the catalogue.
        distance: between them, in pixels' space; limit: closer is a near-copy.
        why: it is not shown; empty where it is.
    """

    drawn: np.ndarray | None
    real: np.ndarray | None
    name: str
    distance: float
    limit: float
    why: str = ""

    @property
    def copy(self) -> bool:
        """Whether it is a near-copy."""
        return self.distance < self.limit


def pairs(
    run: Run, cohort: Cohort, *, count: int = 3, redact: bool = False, found: Drawn | None = None
) -> tuple[Pair, ...]:
    """The pairs that look most like copies, the closest first.

    A training record is shown unless its licence does not let everybody see it, or all are to be kept from view; what is nearly its
    copy is then kept too. One without a licence is the hospital's own, whose report this is.

    Args:
        run: pretrained.
        cohort: where it lies now.
        count: at most.
        redact: show none, for a report that leaves the hospital.
        found: of `draw`, where it was drawn already.
    """
    spec = makes(run).get("latent_diffusion")
    if spec is None or spec.target not in SIDE:
        return ()
    found = found or draw(run, cohort, draws=2)
    memorised, loader = found.memorised[-1], run.loader(cohort, run.split.train)
    shown = list[Pair]()
    for row in memorised.worst(count):
        record = found.train.records[int(memorised.drawn.at[row])]
        name = hashlib.blake2b(record.id.encode(), digest_size=6).hexdigest()
        distance, limit = float(memorised.drawn.distance[row]), memorised.threshold.distance
        licence = record.attributes.get("licence") or record.attributes.get("license")
        why = "the report keeps training records from view" if redact else ""
        if licence and not OPEN.search(str(licence)):
            why = f"its licence is {licence}"
        drawn = None if why and distance < limit else picture(found.values[row].numpy())
        real = None if why else _seen(loader, record)
        shown.append(Pair(drawn, real, name, distance, limit, why or ("" if real is not None else GONE)))
    return tuple(shown)


def _seen(loader: Loader, record: Record) -> np.ndarray | None:
    """A record's picture, where it can still be read."""
    try:
        with reading(record):
            return picture(loader.payload(record).array)
    except UnreadRecordError:
        return None


def picture(array: np.ndarray) -> np.ndarray:
    """(y x) in 0..1 of (c y x), or of the middle of (c z y x)."""
    from ...records.raster import luminance

    flat = luminance(array) if array.ndim == 3 else array[0, array.shape[1] // 2]
    low, high = np.percentile(flat, [0.5, 99.5])
    return np.clip((flat - low) / max(float(high - low), 1e-6), 0, 1)
