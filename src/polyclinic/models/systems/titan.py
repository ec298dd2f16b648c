"""TITAN (Ding et al., Nature Medicine 2025): a slide's vector from the features that another network made of its tiles.

It is no network of its own. The recipe `titan` trains it of parts that are elsewhere: the encoder `titan` (`tokens/slide_features.py`),
`ibot`, `contrastive` and `caption`. Here is its use, on features that are at hand. Where it differs from the paper:

| | the paper | ours | why |
|---|---|---|---|
| tiles' features | CONCH v1.5's, 768 a tile of 512 px at 20-fold | any network's, of any side | no weights are downloaded |
| encoder | ViT, ALiBi in the plane; 6 blocks, 12 heads, width 768 | the same, as the recipe has it | |
| distance of two tiles | of columns and rows | of centres in mm, over the recipe's side | files' grids differ |
| glass between the tissue | masked in attention; at use no token | no token | |
| a slide's vector | [CLS]; later attentional pooling by one query | the tokens' mean | as all modalities have it |
| one: region | 16 × 16 tiles, cut before training | the `region` tiles nearest to a random one, each step | places are physical |
| one: views | 2 of 14 × 14 tiles and 10 of 6 × 6 | boxes of as many tiles | the same, but at an edge |
| one: augmentation | flips; posterised features | features shifted and stretched (`jitter`) | a distance knows no flip |
| two | captions, by PathChat, of 8,192 px regions | slides and their patients' notes | no file says where a note is of |
| three | reports, with crops of 64 × 64 tiles | as two; over `most` tiles are thinned evenly | the slide is seen whole |
| which notes | captions in two, reports in three | the same, by their kind (`mixture`) | |
| text encoder | CONCH v1.5's, 12 blocks | `gpt`, from nothing; a note's vector is its class token, as CoCa's | no weights are downloaded |

Held against the model's published code (`vision_transformer.py` and the README of github.com/mahmoodlab/TITAN): features, distances,
glass, [CLS] and pooling, 128 queries, 14 × 14 and 6 × 6 tiles. From the abstract: the three stages and PathChat's captions. Not checked,
for the methods could not be read: how many blocks, how many views of each size, flips and posterising, 64 × 64, which text encoder, and
whether three's decoder goes on. The published weights are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...harmonise import Fingerprint, SlideFeaturesStandard, harmonise
from ...schema import Batch, Modality, Payload, Ragged, Record, Step
from ..model import Model


@dataclass(frozen=True, slots=True)
class Slide:
    """A slide's tiles.

    Args:
        features: (n d) of each.
        corners: (n 2) x and y of their upper left corners, in pixels of level 0.
        side: of a tile, in pixels of level 0.
        mpp: µm a pixel of level 0; where None a tile is as large as the recipe's.
    """

    features: np.ndarray
    corners: np.ndarray
    side: float
    mpp: float | None = None


def batch_of(slides: Sequence[Slide], standard: SlideFeaturesStandard) -> Batch:
    """Slides as the loader gives them, each of a patient of its own.

    Raises:
        GridError: a slide has another number of features a tile than the standard.
    """
    made = []
    for slide in slides:
        to_world = None if slide.mpp is None else np.diag([slide.mpp / 1000] * 2 + [1.0, 1.0])
        told = {"corners": slide.corners, "side": slide.side}
        payload = Payload(
            np.asarray(slide.features, np.float32), to_world, (Step("tiles", (len(slide.features),), None, told),)
        )
        made.append(
            harmonise(payload, Record("", "", None, Modality.SLIDE, "SLIDE features", ""), standard, Fingerprint())
        )
    names = [str(number) for number in range(len(made))]
    values, places = [torch.from_numpy(p.array) for p in made], [torch.from_numpy(p.places) for p in made]
    ragged = Ragged(values, torch.arange(len(made)), torch.zeros(len(made)), None, len(made), names, places)
    return Batch({Modality.SLIDE: ragged}, {}, names)


@torch.no_grad()
def embed(model: Model, slides: Sequence[Slide], standard: SlideFeaturesStandard) -> Tensor:
    """(m e) the unit vectors of slides in the space that slides and notes share.

    Args:
        model: with an encoder `titan`, in evaluation mode.
        slides: of any number of tiles each, more than any of training has.
        standard: of that encoder.
    """
    batch = batch_of(slides, standard)
    return model.towers(model.encode(batch))[Modality.SLIDE].vectors
