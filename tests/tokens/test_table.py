from __future__ import annotations

import torch

from polyclinic.schema import Ragged
from polyclinic.tokens import Events, phantom


def tables() -> Ragged:
    values = [torch.tensor([[3.0, 0.5, 0.0], [1.0, -2.0, 6.0]]), torch.tensor([[3.0, 0.0, 1.5]])]
    return Ragged(values, torch.tensor([0, 1]), torch.tensor([10.0, 100.0]), None, 2, ["a", "b"])


def test_a_token_is_its_code_plus_its_amount_at_its_own_hour() -> None:
    encoder = Events(width=16, depth=0, heads=2).build(phantom.fingerprint())
    tokens = encoder.embed(tables())
    assert tokens.time_h.tolist() == [10.0, 16.0, 101.5]
    place = encoder.position(tokens.position, tokens.time_h)
    code, amount = encoder.code.weight, encoder.amount.weight
    expected = torch.stack([code[3] + 0.5 * amount[3], code[1] - 2 * amount[1], code[3]])
    torch.testing.assert_close(tokens.values - place, expected, atol=1e-6, rtol=1e-5)
    assert encoder.answer(tables()).tolist() == [3, 1, 3]


def test_order_of_events_does_not_matter_but_their_hour_does() -> None:
    encoder = Events(width=16, depth=1, heads=2).build(phantom.fingerprint())
    one, other, later = tables(), tables(), tables()
    assert isinstance(other.values, list)
    assert isinstance(later.values, list)
    other.values[0] = other.values[0].flip(0)
    later.values[0] = later.values[0] + torch.tensor([0.0, 0.0, 1000.0])
    straight, turned, moved = (encoder(r).values[:2] for r in (one, other, later))
    torch.testing.assert_close(turned.flip(0), straight, atol=1e-5, rtol=1e-5)
    assert (moved - straight).abs().max() > 1e-3


def test_a_recipe_excludes_columns_beside_its_own() -> None:
    standard = Events(exclude=("site",), fewest=5).standard(("finding", "site"))
    assert standard.exclude == ("finding", "site")
    assert standard.fewest == 5
