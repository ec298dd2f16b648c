from __future__ import annotations

from dataclasses import replace

import torch

from polyclinic.schema import Ragged
from polyclinic.tokens import Bert, phantom, select


def notes() -> Ragged:
    values = [torch.tensor([2, 7, 9]), torch.tensor([2]), torch.tensor([2, 9, 7])]
    return Ragged(values, torch.tensor([0, 2, 2]), torch.zeros(3), None, 3, ["a", "b", "c"])


def test_a_token_a_word_in_its_order() -> None:
    encoder = Bert(words=8, width=16, depth=0, heads=2).build(phantom.fingerprint())
    tokens = encoder.embed(notes())
    assert tokens.lengths.tolist() == [3, 0, 4]
    assert tokens.record.tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert tokens.position[:, 3].tolist() == [0, 1, 2, 0, 0, 1, 2]
    assert not tokens.position[:, :3].any()
    place = encoder.position(tokens.position, tokens.time_h)
    torch.testing.assert_close(tokens.values - place, encoder.words.weight[[2, 7, 9, 2, 2, 9, 7]])
    assert encoder.answer(notes()).tolist() == [2, 7, 9, 2, 2, 9, 7]


def test_order_of_words_matters() -> None:
    encoder = Bert(words=8, width=16, depth=1, heads=2).build(phantom.fingerprint())
    tokens = encoder(notes())
    one, other = tokens.values[tokens.record == 0].mean(0), tokens.values[tokens.record == 2].mean(0)
    assert (one - other).abs().max() > 1e-3


def test_the_words_that_are_kept_do_not_carry_those_that_are_hidden() -> None:
    encoder = Bert(words=8, width=16, depth=2, heads=2).build(phantom.fingerprint())
    keep = torch.tensor([True, False, True, True, True, True, False])
    one = encoder.trunk(select(encoder.embed(notes()), keep)).values
    other = replace(notes(), values=[torch.tensor([2, 11, 9]), torch.tensor([2]), torch.tensor([2, 9, 30])])
    assert torch.equal(encoder.trunk(select(encoder.embed(other), keep)).values, one)


def test_the_vocabulary_is_the_training_notes() -> None:
    encoder = Bert().build(phantom.fingerprint())
    assert encoder.words.weight.shape == (phantom.WORDS, 128)
    assert encoder.answer_size == phantom.WORDS
