from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from polyclinic.schema import Ragged
from polyclinic.tokens import Titan, TitanEncoder, phantom

SPEC = Titan(features=10, width=16, depth=1, heads=4)
SIDE = SPEC.side_mm


def grid(columns: int, rows: int, features: int = 10, seed: int = 0) -> Ragged:
    """A slide of tissue everywhere."""
    at = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1).float()
    places = torch.cat([at * SIDE + 3.0, torch.zeros(len(at), 2)], 1)
    values = torch.randn(len(at), features, generator=torch.Generator().manual_seed(seed))
    return Ragged([values], torch.zeros(1, dtype=torch.int64), torch.zeros(1), None, 1, ["s"], [places])


def built(spec: Titan = SPEC) -> TitanEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return spec.build(phantom.fingerprint()).eval()


def by_hand(encoder: TitanEncoder, ragged: Ragged, columns: int) -> Tensor:
    """TITAN's first block and last norm in double precision, by the columns and rows of the tiles, not their mm (Methods)."""
    weights = {name: w.double() for name, w in encoder.state_dict().items()}
    linear = lambda x, name: x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    normed = lambda x, name: torch.nn.functional.layer_norm(
        x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"]
    )
    block, heads = "blocks.blocks.0", SPEC.heads
    x = linear(ragged.values[0].double(), "project")
    nowhere = encoder.position(torch.zeros(1, 4), torch.zeros(1)).double()  # the same for every tile
    x = x + nowhere
    n, width = x.shape
    q, k, v = linear(normed(x, f"{block}.norm1"), f"{block}.attention.qkv").view(n, 3, heads, width // heads).unbind(1)
    numbers = torch.arange(n)
    column, row = (numbers % columns).double(), (numbers // columns).double()
    apart = ((column[:, None] - column) ** 2 + (row[:, None] - row) ** 2).sqrt()
    answers = []
    for head in range(heads):
        scores = q[:, head] @ k[:, head].T / (width // heads) ** 0.5 - 2.0 ** (-8 * (head + 1) / heads) * apart
        answers.append(scores.softmax(1) @ v[:, head])
    x = x + linear(torch.cat(answers, 1), f"{block}.attention.out")
    x = x + linear(torch.nn.functional.gelu(linear(normed(x, f"{block}.norm2"), f"{block}.up")), f"{block}.down")
    return normed(x, "blocks.norm")


@pytest.mark.parametrize(("columns", "rows"), [(5, 4), (30, 20)])  # by either kernel of attention
@torch.no_grad()
def test_a_block_is_the_papers(columns: int, rows: int) -> None:
    encoder, ragged = built(), grid(columns, rows)
    torch.testing.assert_close(encoder(ragged).values.double(), by_hand(encoder, ragged, columns), atol=5e-5, rtol=1e-4)


def moved(ragged: Ragged, to: Tensor) -> Ragged:
    assert ragged.places is not None
    return replace(ragged, places=[places @ to[:4] + to[4] for places in ragged.places])


@pytest.mark.parametrize(
    ("turn", "shift"),
    [
        (torch.eye(4), [70.0, -30.0]),
        (torch.diag(torch.tensor([-1.0, 1, 1, 1])), [0.0, 0.0]),
        (torch.eye(4)[[1, 0, 2, 3]], [5.0, 2.0]),
    ],
    ids=["shifted", "flipped", "turned"],
)
@torch.no_grad()
def test_where_a_grid_lies_and_how_it_is_turned_changes_no_token(turn: Tensor, shift: list[float]) -> None:
    encoder, ragged = built(Titan(features=10, width=16, depth=3, heads=4)), grid(7, 5)
    other = moved(ragged, torch.cat([turn, torch.tensor([[*shift, 0, 0]])]))
    torch.testing.assert_close(encoder(other).values, encoder(ragged).values, atol=1e-4, rtol=1e-4)
    stretched = moved(ragged, torch.cat([2 * torch.eye(4), torch.zeros(1, 4)]))
    assert not torch.allclose(encoder(stretched).values, encoder(ragged).values, atol=1e-2)


@torch.no_grad()
def test_what_is_far_away_is_hardly_heard() -> None:
    """Which is why a longer grid than any of training does no harm: here, one that is twenty times as long."""
    encoder = built(Titan(features=10, width=16, depth=2, heads=2))  # slopes of 1/16 and 1/256 a tile
    near, other = grid(6, 6), grid(6, 6, seed=1)
    assert near.places is not None
    (places,) = near.places
    both = [torch.cat([near.values[0], other.values[0]])]

    def beside(tiles: float) -> Tensor:
        far = torch.cat([places, places + torch.tensor([tiles * SIDE, 0, 0, 0])])
        return (encoder(replace(near, values=both, places=[far])).values[:36] - encoder(near).values).abs().mean()

    apart = [float(beside(tiles)) for tiles in (6, 120, 3000)]
    assert apart[0] > apart[1] > apart[2]
    assert apart[2] < 0.02 * apart[0]


def test_nothing_of_it_is_as_large_as_a_grid() -> None:
    encoder = built()
    with torch.no_grad():
        assert encoder(grid(50, 50)).values.isfinite().all()
    assert (
        max(max(p.shape) for p in encoder.parameters()) <= 97
    )  # of the hour's and place's waves, that all encoders have


def test_no_place_is_added_to_a_token() -> None:
    encoder, ragged = built(), grid(4, 3)
    same = replace(ragged, values=[ragged.values[0][:1].expand(12, -1)])
    values = encoder.embed(same).values
    assert torch.equal(values, values[:1].expand(12, -1))


def test_what_is_asked_are_the_features() -> None:
    encoder, ragged = built(), grid(4, 3)
    wanted = encoder.answer(ragged).double()
    x = ragged.values[0].double()
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-2).sqrt()
    torch.testing.assert_close(wanted, expected, atol=1e-5, rtol=1e-5)


def test_the_standard_is_what_was_asked_for() -> None:
    assert Titan(features=1024, size=256, mpp=1.0, most=9).standard().model_dump() == {
        "kind": "slide", "features": 1024, "side_mm": 0.256, "most": 9,
    }  # fmt: skip
