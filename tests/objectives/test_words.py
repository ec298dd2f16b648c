"""A decoder of words: it learns what comes next, of what it is shown, and draws as its papers say."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from polyclinic.objectives import Sampling, Seen, WordDecoder, numbers
from polyclinic.objectives.words import UNTOLD
from polyclinic.tokens import Style

VOCABULARY, END = 20, 1


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def decoder(context: int | None = None, places: int | None = 32) -> WordDecoder:
    return WordDecoder(VOCABULARY, 32, 2, 4, places=places, context=context)


def some(lengths: list[int]) -> list[Tensor]:
    return [torch.randint(2, VOCABULARY, (n,)) for n in lengths]


def test_the_loss_is_each_texts_next_word() -> None:
    model, texts = decoder(), some([4, 1, 7])
    logits, words = model(texts).split([4, 1, 7]), texts
    each = [F.cross_entropy(a[:-1], b[1:], reduction="none") for a, b in zip(logits, words, strict=True)]
    torch.testing.assert_close(model.loss(texts), torch.cat(each).mean())
    wanted = torch.full((12,), UNTOLD)
    wanted[2] = texts[0][3]
    torch.testing.assert_close(model.loss(texts, wanted=wanted), each[0][2])
    assert float(model.loss(texts, wanted=torch.full((12,), UNTOLD)).detach()) == 0


def test_what_is_shown_is_told() -> None:
    model, draws = decoder(context=8), torch.Generator().manual_seed(0)
    names = torch.randn(6, 8)  # a thing each, called by a word of its own
    adam = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(120):
        things = torch.randint(0, 6, (16,), generator=draws)
        texts = [torch.tensor([0, int(t) + 2, int(t) + 3, END]) for t in things]
        loss = model.loss(texts, Seen(names[things] + 0.05 * torch.randn(16, 8, generator=draws), torch.arange(16)))
        adam.zero_grad()
        loss.backward()
        adam.step()
    begin = [torch.tensor([0])] * 3
    found = model.generate(begin, END, 8, Seen(names[[5, 2, 0]], torch.arange(3)))
    assert [f.tolist() for f in found] == [[7, 8], [4, 5], [2, 3]]
    # A text without a context is written from its words alone, and changes nothing for the others.
    some_ = model.generate(begin, END, 8, Seen(names[[5, 0]], torch.tensor([0, 2])))
    assert [some_[0].tolist(), some_[2].tolist()] == [[7, 8], [2, 3]]


def test_no_word_sees_a_later_one_or_another_text() -> None:
    model, texts = decoder(), some([5, 4])
    before = model(texts)
    other = [torch.cat([texts[0][:3], torch.tensor([3, 4])]), texts[1]]
    after = model(other)
    assert torch.equal(before[:3], after[:3])
    assert torch.equal(before[5:], after[5:])
    assert not torch.equal(before[3:5], after[3:5])


def test_draws_follow_the_logits() -> None:
    chances = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = chances.log().expand(20000, -1)
    draws = torch.Generator().manual_seed(0)
    share = lambda s: torch.bincount(s.draw(logits, draws), minlength=4) / 20000
    torch.testing.assert_close(share(Sampling(temperature=1)), chances, atol=0.015, rtol=0)
    torch.testing.assert_close(
        share(Sampling(temperature=2)), chances.sqrt() / chances.sqrt().sum(), atol=0.015, rtol=0
    )
    torch.testing.assert_close(share(Sampling(1, top_k=2)), torch.tensor([0.625, 0.375, 0, 0]), atol=0.015, rtol=0)
    torch.testing.assert_close(share(Sampling(1, top_p=0.79)), torch.tensor([0.625, 0.375, 0, 0]), atol=0.015, rtol=0)
    torch.testing.assert_close(
        share(Sampling(1, top_p=0.81)), chances.where(chances > 0.1, 0) / 0.95, atol=0.015, rtol=0
    )
    assert share(Sampling(1, top_p=1e-9)).tolist() == [1, 0, 0, 0]
    assert share(Sampling()).tolist() == [1, 0, 0, 0]


@given(st.integers(1, 4), st.integers(0, 2**31 - 1))
def test_no_run_of_words_is_said_twice(run: int, seed: int) -> None:
    """The word taken is the likeliest of those that say no run again."""
    draws = torch.Generator().manual_seed(seed)
    said = torch.zeros(3, 0, dtype=torch.int64)
    for _ in range(5 if run == 1 else 10):
        logits = torch.randn(3, 6, generator=draws) + torch.tensor([4.0, 2, 0, 0, 0, 0])
        word = Sampling(once=run).draw(logits, None, said)
        for row, mine in enumerate(said.tolist()):
            grams = {tuple(mine[n : n + run]) for n in range(len(mine) - run + 1)}
            new = [w for w in range(6) if len(mine) < run - 1 or tuple([*mine, w][-run:]) not in grams]
            assert int(word[row]) == max(new, key=lambda w: float(logits[row, w]))
        said = torch.cat([said, word[:, None]], 1)


def test_a_decoder_says_no_run_twice_where_it_is_told() -> None:
    model, begin = decoder(), [torch.tensor([1]), torch.tensor([2, 3])]
    free, bound = (model.generate(begin, None, 12, sampling=Sampling(once=once)) for once in (None, 2))
    pairs = lambda text: list(pairwise(text.tolist()))
    assert any(len(set(pairs(text))) < len(pairs(text)) for text in free)
    assert all(len(set(pairs(text))) == len(pairs(text)) for text in bound)


def test_the_same_draws_give_the_same_words() -> None:
    model, own = decoder(), some([3, 5])
    write = lambda seed: model.generate(
        own, None, 12, sampling=Sampling(1.0), generator=torch.Generator().manual_seed(seed)
    )
    one, again, other = write(1), write(1), write(2)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_an_untrained_decoder_knows_nothing() -> None:
    assert float(decoder().loss(some([20, 30])).detach()) == pytest.approx(math.log(VOCABULARY), abs=0.1)


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="a text without any word"):
        numbers([torch.tensor([1]), torch.tensor([], dtype=torch.int64)])
    with pytest.raises(ValueError, match="33 words for a decoder of 32 places"):
        decoder().generate(some([30]), None, 4)
    assert len(decoder().generate(some([30]), None, 3)[0]) == 3
    with pytest.raises(ValueError, match="would see the word"):
        WordDecoder(VOCABULARY, 32, 2, 4, style=Style())
