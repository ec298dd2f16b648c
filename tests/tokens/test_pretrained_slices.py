"""A volume through somebody's network of images: each three slices as that network sees them, each token at its place in mm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import snapshots
from polyclinic.harmonise import Fingerprint
from polyclinic.objectives.decoders import MaskDecoder
from polyclinic.schema import Modality, Ragged
from polyclinic.tokens import PretrainedSlices
from polyclinic.tokens.snapshot import SnapshotError


def spec(name: str = "vit", **fields: Any) -> PretrainedSlices:
    given = {"size": (9, 32, 32), "depth": 0, **fields}
    return PretrainedSlices.model_validate({"folder": str(snapshots.folder(name)), **given})


def volumes(*shape: int) -> Ragged:
    values = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(0))
    spacing = torch.tensor([[5.0, 0.5, 0.25]]).repeat(2, 1)
    return Ragged(values, torch.arange(2), torch.zeros(2), spacing, 2, ["a", "b"])


def as_shown(volume: Tensor) -> Tensor:
    """(z y x) → (z/3 3 y x): brightness from 0 to 1 of the whole volume, three slices a picture, the makers' arithmetic."""
    grey = (volume - volume.min()) / (volume.max() - volume.min())
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (snapshots.MEAN, snapshots.STD))
    return (torch.stack([grey[i : i + 3] for i in range(0, len(grey), 3)]) - mean) / std


@pytest.mark.parametrize(
    ("name", "title"), [("vit", "ViT"), ("dinov2_with_registers", "Dinov2WithRegisters"), ("siglip", "SiglipVision")]
)
@pytest.mark.parametrize("size", [(9, 32, 32), (6, 16, 40)])
def test_tokens_are_the_networks_of_each_three_slices(name: str, title: str, size: tuple[int, int, int]) -> None:
    import transformers

    theirs = getattr(transformers, f"{title}Model").from_pretrained(snapshots.folder(name)).eval()
    options = {"interpolate_pos_encoding": True} if name != "dinov2_with_registers" else {}
    ragged = volumes(*size)
    tokens = spec(name, size=size).build(Fingerprint()).eval()(ragged)
    patches = size[1] * size[2] // snapshots.PATCH**2
    for number, volume in enumerate(ragged.values):
        with torch.no_grad():
            hidden = theirs(pixel_values=as_shown(volume[0]), **options).last_hidden_state[:, -patches:]
        torch.testing.assert_close(tokens.values[tokens.record == number], hidden.flatten(0, 1), atol=1e-5, rtol=1e-5)


def test_tokens_lie_at_the_centre_of_their_boxes() -> None:
    position = spec().build(Fingerprint()).eval()(volumes(9, 32, 32)).position
    assert len(position) == 2 * 3 * 4 * 4
    torch.testing.assert_close(position[0], torch.tensor([-12 * 0.25, -12 * 0.5, -3 * 5.0, 0]))
    torch.testing.assert_close(position[16 + 1], torch.tensor([-4 * 0.25, -12 * 0.5, 0, 0]))


def test_what_three_slices_hold_reaches_the_others_by_our_blocks_alone() -> None:
    ragged = volumes(9, 32, 32)
    other = volumes(9, 32, 32)
    assert isinstance(other.values, Tensor)
    other.values[0, 0, 0] = other.values[0, 0, 0].flip(0)  # the same darkest and brightest
    first = torch.arange(2 * 48) < 16
    for depth in (0, 1):
        encoder = spec(depth=depth, heads=2).build(Fingerprint()).eval()
        changed = (encoder(ragged).values != encoder(other).values).any(1)
        assert changed[first].all()
        assert bool(changed[16:48].any()) == bool(depth)
        assert not changed[48:].any()


def test_its_tokens_are_a_grid_that_can_be_segmented() -> None:
    encoder, ragged = spec().build(Fingerprint()).eval(), volumes(9, 32, 32)
    assert isinstance(ragged.values, Tensor)
    decoder = MaskDecoder(encoder.width, Modality.VOLUME, encoder.patch, 3)
    assert decoder(encoder(ragged), ragged.values).shape == (2, 3, 9, 32, 32)


def test_what_does_not_fit_is_refused() -> None:
    for size in ((8, 32, 32), (9, 30, 32)):
        with pytest.raises(ValueError, match="do not fill a volume"):
            spec(size=size)
    with pytest.raises(SnapshotError, match="'bert'"):
        spec("bert")
    with pytest.raises(SnapshotError, match="`patch` 4"):
        spec(patch=4, width=snapshots.WIDTH).build(Fingerprint())
