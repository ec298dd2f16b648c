from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from polyclinic.schema import Ragged
from polyclinic.tokens import Bert, EncoderFields, Gpt, Llama, phantom, select


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


CAUSAL = [Gpt(words=8, width=16, depth=2, heads=2), Llama(words=8, width=16, depth=2, heads=2, groups=1)]
causal = pytest.mark.parametrize("spec", CAUSAL, ids=["gpt", "llama"])


@causal
def test_a_class_token_hears_every_word_and_no_word_hears_it(spec: Gpt | Llama) -> None:
    encoder = spec.model_copy(update={"class_token": True}).build(phantom.fingerprint())
    words, ends = encoder.ended(notes())
    assert encoder.class_token is not None
    assert (ends.record.tolist(), ends.patient.tolist(), ends.lengths.tolist()) == ([0, 1, 2], [0, 2, 2], [1, 0, 2])
    assert ends.position[:, 3].tolist() == [3, 1, 3]  # behind the last word
    alone = encoder(notes())  # read without it
    torch.testing.assert_close(words.values, alone.values, atol=1e-5, rtol=1e-5)
    for field in ("patient", "record", "position", "lengths", "modality", "time_h"):
        assert torch.equal(getattr(words, field), getattr(alone, field)), field
    for place in range(3):  # each word of the first note changes its class token, and no other note's
        text = torch.tensor([2, 7, 9]).index_fill(0, torch.tensor(place), 11)
        other = encoder.ended(replace(notes(), values=[text, *notes().values[1:]]))[1].values
        changed = (other - ends.values).abs().amax(1)
        assert changed[0] > 1e-4
        assert changed[1:].max() < 1e-5
    ends.values[:, 0].sum().backward()  # a normed token's numbers add up to nothing
    assert encoder.class_token.grad is not None
    assert encoder.class_token.grad.abs().max() > 1e-4


def test_a_class_token_is_asked_for_of_a_trunk() -> None:
    one, other = (
        Gpt(words=8, width=16, depth=1, heads=2, class_token=c).build(phantom.fingerprint()) for c in (False, True)
    )
    assert dict(other.named_parameters()).keys() - dict(one.named_parameters()).keys() == {"class_token"}
    words, ends = one.ended(notes())
    assert words is ends
    with pytest.raises(ValidationError, match="a class token without a block"):
        Gpt(depth=0, class_token=True)


@causal
def test_a_causal_encoders_words_know_what_came_before_them(spec: EncoderFields) -> None:
    encoder = spec.build(phantom.fingerprint())
    one = encoder(notes()).values
    other = encoder(
        replace(notes(), values=[torch.tensor([2, 7, 11]), torch.tensor([2]), torch.tensor([2, 9, 7])])
    ).values
    assert torch.equal(one[:2], other[:2])
    assert not torch.equal(one[2], other[2])
    assert encoder.causal
    last = lambda values: encoder(replace(notes(), values=[values, *notes().values[1:]])).values[len(values) - 1]
    assert (last(torch.tensor([2, 7, 9, 5])) - last(torch.tensor([2, 9, 7, 5]))).abs().max() > 1e-4  # their order too


def test_rotary_places_are_the_words_order_whatever_is_hidden() -> None:
    encoder = CAUSAL[1].build(phantom.fingerprint())
    keep = torch.tensor([True, False, True, True, True, True, True])
    seen = encoder.trunk(select(encoder.embed(notes()), keep)).values
    moved = replace(notes(), values=[torch.tensor([2, 9]), *notes().values[1:]])
    assert not torch.allclose(seen[:2], encoder(moved).values[:2], atol=1e-4)


def test_a_llama_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="3 groups of keys do not divide 4 heads"):
        Llama(width=16, heads=4, groups=3)
    with pytest.raises(ValidationError, match="make it even"):
        Llama(width=12, heads=4)
