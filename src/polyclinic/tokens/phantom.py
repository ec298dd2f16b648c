"""Made-up records in the standard of each modality, to try an encoder, a fusion or a whole model on. Nobody's data.

A record's payload is a function of the seed and of its id and of nothing else: who else is in the batch, and what else a patient has,
changes no bit of it. The contract tests run everything on these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..harmonise import (
    LEADS,
    Fingerprint,
    ImageStandard,
    KinematicsStandard,
    OmicsStandard,
    SignalStandard,
    SlideFeaturesStandard,
    SlideStandard,
    Standard,
    TableStandard,
    TextStandard,
    TfidfStandard,
    VideoStandard,
    VolumeStandard,
)
from ..harmonise.fingerprint import Scale
from ..schema import Batch, Modality, PolyclinicError, Ragged
from .encoder import EncoderFields
from .image import Vit
from .kinematics import MotionVit
from .omics import Programmes
from .signal import SignalVit
from .slide import SlideVit
from .table import Events
from .text import Bert
from .video import Vivit
from .volume import Vit3d

WORDS, CODES, GENES = 50, 9, 40


def fingerprint() -> Fingerprint:
    """What made-up training records would have had: words, codes, and genes of two assays."""
    vocabulary = json.dumps({"model": {"vocab": {f"word{n}": n for n in range(WORDS)}}})
    codes = {f"code{n}": Scale(n, 0.0, 1.0, 10) for n in range(CODES)}
    genes = {f"G{n:02}_{'rna' if n < 25 else 'cnv'}": Scale(n, 0.0, 1.0, 10) for n in range(GENES)}
    # Two components, of both assays: of a record with one of them half is measured.
    loadings = tuple(tuple((1.0 if n % (k + 2) else -1.0) / GENES**0.5 for n in range(GENES)) for k in range(2))
    terms = {f"word{n}": 1.0 + n / WORDS for n in range(WORDS)}
    directions = tuple(tuple(float(n % 4 == k) * (4 / WORDS) ** 0.5 for n in range(WORDS)) for k in range(4))
    return Fingerprint(vocabulary, codes, genes, components=loadings, terms=terms, directions=directions)


def encoders() -> dict[Modality, EncoderFields]:
    """A small encoder of each modality."""
    size: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2}
    return {
        Modality.IMAGE: Vit(size=32, patch=8, **size),
        Modality.VOLUME: Vit3d(size=(16, 16, 24), patch=(8, 8, 8), **size),
        Modality.SLIDE: SlideVit(size=16, mpp=8, most=4, patch=8, **size),
        Modality.VIDEO: Vivit(size=16, patch=8, rate_hz=2, seconds=3, **size),
        Modality.TEXT: Bert(words=12, **size),
        Modality.TABLE: Events(**size),
        Modality.SIGNAL: SignalVit(rate_hz=20, seconds=5, window=20, **size),
        Modality.OMICS: Programmes(genes=8, **size),
        Modality.KINEMATICS: MotionVit(
            rate_hz=10,
            seconds=2,
            window=5,
            channels=("left x", "left y", "right x", "gripper"),
            arms=("left", "right"),
            **size,
        ),
    }


def ragged(
    standard: Standard, has: Mapping[str, int], seed: int = 0, kinds: Sequence[str] = (), full: Fingerprint | None = None
) -> Ragged:  # fmt: skip
    """Records of one modality.

    Args:
        standard: what an encoder wants of the harmoniser.
        has: how many records each patient of the batch has; 0 for none.
        seed: of the payloads.
        kinds: of a patient's records in turn; none for one kind, `made-up image` say.
        full: lets every record fill all that the standard has room for, with this fingerprint's genes and rate; None draws how much
            of it there is, with those of `fingerprint()`.
    """
    which = [(patient, n) for patient, count in has.items() for n in range(count)]
    ids = [f"{standard.kind}-{patient}-{n}" for patient, n in which]
    draws = [_generator(seed, name) for name in ids]
    made = [_payload(standard, draw) if full is None else _full(standard, draw, full) for draw in draws]
    called = kinds or (f"made-up {standard.kind}",)
    values = [v for v, _, _ in made]
    alike = len({v.shape for v in values}) == 1 and not isinstance(
        standard, TextStandard | TfidfStandard | TableStandard
    )
    return Ragged(
        values=torch.stack(values) if alike else values,
        patient=torch.tensor([i for i, count in enumerate(has.values()) for _ in range(count)], dtype=torch.int64),
        time_h=torch.tensor([float(torch.rand((), generator=d)) * 100 for d in draws]),
        spacing=torch.stack([s for _, s, _ in made]) if made and made[0][1].numel() else None,
        patients=len(has),
        ids=ids,
        places=[p for _, _, p in made] if made and made[0][2].numel() else None,
        kinds=[called[n % len(called)] for _, n in which],
    )


def batch(
    standards: Mapping[Modality, Standard], has: Mapping[str, Mapping[Modality, int]], seed: int = 0,
    kinds: Mapping[Modality, Sequence[str]] | None = None, full: Fingerprint | None = None,
) -> Batch:  # fmt: skip
    """Records of many modalities, without targets.

    Args:
        standards: what each modality's encoder wants.
        has: patient → how many records of each modality.
        seed: of the payloads.
        kinds, full: see `ragged`.
    """
    counts = {m: {patient: own.get(m, 0) for patient, own in has.items()} for m in standards}
    there = [m for m in standards if any(counts[m].values())]
    payloads = {m: ragged(standards[m], counts[m], seed, (kinds or {}).get(m, ()), full) for m in there}
    return Batch(payloads, {}, list(has))


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}\x00{name}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def _full(standard: Standard, draw: torch.Generator, full: Fingerprint) -> tuple[Tensor, Tensor, Tensor]:
    """As `_payload`, of the largest size."""
    normal = lambda *shape: torch.randn(shape, generator=draw)
    none = torch.zeros(0)
    match standard:
        case SlideStandard() | SlideFeaturesStandard() | VideoStandard():
            places = torch.zeros(standard.most, 4)
            places[:, 3 if isinstance(standard, VideoStandard) else 0] = torch.arange(standard.most)
            if isinstance(standard, SlideFeaturesStandard):
                return normal(standard.most, standard.features), torch.full((2,), 0.0005), places
            video = isinstance(standard, VideoStandard)
            shape = (standard.most, 3 if not video or standard.colour else 1, standard.size, standard.size)
            spacing = torch.ones(2) if video else torch.full((2,), standard.mpp / 1000)
            return (
                normal(*shape) if video else torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8),
                spacing,
                places,
            )
        case TextStandard():
            return torch.randint(4, full.words, (standard.words,), generator=draw), none, none
        case TfidfStandard():
            return _note(len(full.terms), draw), none, none
        case TableStandard():
            code = torch.randint(0, max(1, len(full.codes)), (standard.most, 1), generator=draw)
            return torch.cat([code, normal(standard.most, 2)], 1), none, none
        case SignalStandard():
            rate = standard.rate_hz or full.rate_hz
            return normal(len(LEADS), round(standard.seconds * rate)), torch.tensor([1 / rate]), none
        case OmicsStandard():
            return normal(len(full.genes)), none, none
        case KinematicsStandard():
            motion = normal(len(standard.channels), round(standard.seconds * standard.rate_hz))
            return motion, torch.tensor([1 / standard.rate_hz]), none
    return _payload(standard, draw)


def _note(terms: int, draw: torch.Generator) -> Tensor:
    """(t,) of length one, some of them 0."""
    weights = torch.rand(terms, generator=draw)
    return F.normalize(torch.where(weights < 0.5, 0.0, weights), dim=0)


def _payload(standard: Standard, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """One harmonised payload, its (k,) spacing and its (n 4) places; (0,) where it has no grid and where that is all there is."""
    normal = lambda *shape: torch.randn(shape, generator=draw)
    between = lambda low, high: int(torch.randint(low, high + 1, (), generator=draw))
    none = torch.zeros(0)
    match standard:
        case ImageStandard():
            return normal(standard.channels, standard.size, standard.size), torch.rand(2, generator=draw) + 0.5, none
        case VolumeStandard():
            return (
                normal(1, *(standard.size or standard.box or (16, 16, 16))),
                torch.rand(3, generator=draw) + 0.5,
                none,
            )
        case SlideStandard():
            tiles, mm = between(1, standard.most), standard.mpp / 1000
            places = torch.zeros(tiles, 4)
            places[:, :2] = torch.randint(0, 40, (tiles, 2), generator=draw) * standard.size * mm
            shape = (tiles, 3, standard.size, standard.size)
            return torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8), torch.full((2,), mm), places
        case SlideFeaturesStandard():
            tiles = between(1, min(standard.most, 6))
            places = torch.zeros(tiles, 4)
            places[:, :2] = torch.randint(0, 40, (tiles, 2), generator=draw) * standard.side_mm
            return normal(tiles, standard.features), torch.full((2,), 0.0005), places
        case VideoStandard():
            frames = between(1, standard.most)
            places = torch.zeros(frames, 4)
            places[:, 3] = torch.cumsum(torch.rand(frames, generator=draw) + 0.1, 0) / standard.rate_hz
            clip = normal(frames, 3 if standard.colour else 1, standard.size, standard.size)
            return clip, torch.rand(2, generator=draw) + 0.5, places
        case TextStandard():
            return torch.randint(4, WORDS, (between(2, min(12, standard.words)),), generator=draw), none, none
        case TfidfStandard():
            return _note(WORDS, draw), none, none
        case TableStandard():
            events = between(1, min(8, standard.most))
            code = torch.randint(0, CODES, (events, 1), generator=draw)
            return torch.cat([code, normal(events, 1), torch.rand(events, 1, generator=draw) * 50], 1), none, none
        case SignalStandard():
            rate = standard.rate_hz or Fingerprint.rate_hz
            leads = normal(len(LEADS), round(standard.seconds * rate))
            leads[between(1, 5) :] = torch.nan  # a lead that is not there
            return leads, torch.tensor([1 / rate]), none
        case OmicsStandard():
            genes = normal(GENES)
            return torch.where(torch.rand(GENES, generator=draw) < 0.3, torch.nan, genes), none, none
        case KinematicsStandard():
            motion = normal(len(standard.channels) or 4, round(standard.seconds * standard.rate_hz))
            motion[between(1, len(motion)) :] = torch.nan  # an arm that is not there
            motion[:, between(1, motion.shape[1]) :] = torch.nan  # a recording that is shorter
            return motion, torch.tensor([1 / standard.rate_hz]), none
    raise PolyclinicError(
        f"no made-up records in the standard {type(standard).__name__}",
        "one payload for each standard, so that every encoder is tested",
        "add a case for it to `_payload` in src/polyclinic/tokens/phantom.py",
    )
