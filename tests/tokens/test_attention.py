"""Attention: both kernels are the formula; groups, causality, distances, turns, contexts and memory do what their papers say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from polyclinic.tokens import attention
from polyclinic.tokens.attention import Attention, Context, CrossAttention, Rotary, attend, distances, slopes, turned
from polyclinic.tokens.frozen import frozen
from polyclinic.tokens.layout import Layout
from polyclinic.tokens.transformer import Style, Transformer

WIDTH, DEPTH, HEADS = 48, 3, 4
DECODER = Style(norm="rms", activation="swiglu", bias=False, causal=True, groups=2, rotary=Rotary())


def groups(lengths: list[int]) -> Tensor:
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.int64))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("length", [5, attention.FUSED_FROM - 1, attention.FUSED_FROM])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_both_kernels_are_attention(length: int, padded: bool, causal: bool) -> None:
    q, k, v = torch.randn(3, 4, 2, length, 8, dtype=torch.float64)
    k, v = k[:2], v[:2]  # two groups of two heads
    bias = torch.zeros(1, 2, 1, length, dtype=torch.float64)
    if padded:
        bias[:, 1, :, length // 2 :] = float("-inf")
    wide_k, wide_v = (x[[0, 0, 1, 1]] for x in (k, v))
    scores = q @ wide_k.mT / 8**0.5 + bias
    if causal:
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
    found = attend(q, k, v, bias if padded else None, causal)
    torch.testing.assert_close(found, torch.softmax(scores, -1) @ wide_v, atol=1e-10, rtol=0)


def test_a_causal_token_sees_what_came_before_it() -> None:
    model, x = Transformer(WIDTH, 1, HEADS, style=Style(causal=True)), torch.randn(9, WIDTH, requires_grad=True)
    answer = model(x, Layout.of(groups([5, 4])))
    for out in range(9):
        (gradient,) = torch.autograd.grad(answer[out, 0], x, retain_graph=True)
        seen = {i for i in range(9) if bool((gradient[i] != 0).any())}
        assert seen == set(range(out + 1) if out < 5 else range(5, out + 1))


def test_turned_heads_score_by_distance() -> None:
    rotary, q, k = Rotary(), torch.randn(1, 1, 16), torch.randn(1, 1, 16)
    at = lambda x, place: turned(x, rotary.angles(torch.tensor([float(place)]), 16))[0, 0]
    score = lambda i, j: float(at(q, i) @ at(k, j))
    assert score(3, 1) == pytest.approx(score(103, 101), abs=1e-4)
    assert score(3, 1) != pytest.approx(score(3, 2), abs=1e-3)
    assert float(at(q, 57).norm()) == pytest.approx(float(q.norm()), rel=1e-5)
    # Pair i turns by theta^(-2i/e) a step (Su et al. 2021, equation 15).
    assert rotary.frequencies(16).tolist() == pytest.approx([10000 ** (-2 * i / 16) for i in range(8)])


def test_alibi_is_the_papers() -> None:
    assert slopes(8).tolist() == [2.0**-i for i in range(1, 9)]  # Press et al. 2022, section 3
    assert slopes(12).tolist()[:8] == slopes(8).tolist()
    place = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0], [7.0, 7.0]])
    (near,) = distances(Layout.of(torch.tensor([0, 0, 0, 1]), together=True), place, 2)
    assert near.shape == (2, 2, 3, 3)
    assert near[1, 0, 0].tolist() == pytest.approx([0, -5 * 2.0**-8, -(2.0**-8)], rel=1e-6)
    assert near[0, 0, 1, 2].item() == pytest.approx(-(20**0.5) * 2.0**-4)


def test_alibi_knows_places_only_by_their_distance() -> None:
    model, x, layout = (
        Transformer(WIDTH, 2, HEADS, style=Style(alibi=True)),
        torch.randn(20, WIDTH),
        Layout.of(groups([8, 12])),
    )
    place = torch.randn(20, 2) * 5
    turn = math.radians(30)
    rotation = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    one, moved = model(x, layout, place), model(x, layout, place @ rotation.T + 100)
    torch.testing.assert_close(one, moved, atol=1e-4, rtol=0)
    assert not torch.allclose(one, model(x, layout, 2 * place), atol=1e-3)


@pytest.mark.parametrize("together", [False, True])
def test_a_context_is_seen_by_its_own_sequence_only(together: bool) -> None:
    cross, x, context = CrossAttention(WIDTH, 20, HEADS), torch.randn(12, WIDTH), torch.randn(30, 20)
    mine, theirs = groups([3, 5, 4]), torch.tensor([0] * 7 + [2] * 23)
    found = cross(x, Context.of(mine, context, theirs, together))
    assert bool((found[mine == 1] == 0).all())  # who has no context hears nothing
    for who in (0, 2):
        one = Context.of(mine[mine == who], context[theirs == who], theirs[theirs == who])
        torch.testing.assert_close(found[mine == who], cross(x[mine == who], one), atol=1e-6, rtol=0)
    h, e = HEADS, WIDTH // HEADS
    q = cross.query(x[mine == 0]).view(3, h, e).transpose(0, 1)
    k, v = cross.kv(context[:7]).view(7, 2, h, e).permute(1, 2, 0, 3)
    wanted = cross.out((torch.softmax(q @ k.mT / e**0.5, -1) @ v).transpose(0, 1).reshape(3, WIDTH))
    torch.testing.assert_close(found[:3], wanted, atol=1e-6, rtol=0)
    assert bool((cross(x, Context.of(mine, context, theirs + 5)) == 0).all())  # nobody's


@pytest.mark.parametrize("style", [DECODER, Style(causal=True)], ids=["llama", "gpt"])
@pytest.mark.parametrize("lengths", [[6, 6], [2, 9, 5]])
@pytest.mark.parametrize("learning", [True, False])
def test_remembered_is_what_was_seen(lengths: list[int], style: Style, learning: bool) -> None:
    further = 70  # more than there is room for at first
    model = Transformer(WIDTH, DEPTH, HEADS, style=style, context=20).eval()
    whole = [torch.randn(n + further, WIDTH) for n in lengths]
    seen, theirs = torch.randn(8, 20), torch.tensor([0] * 5 + [1] * 3)
    every = groups([n + further for n in lengths])
    wanted = model(torch.cat(whole), Layout.of(every), context=Context.of(every, seen, theirs)).split(
        [n + further for n in lengths]
    )
    with torch.set_grad_enabled(learning), frozen(model):
        found = _remembering(model, whole, lengths, seen, theirs)
    for number, (mine, n) in enumerate(zip(whole, lengths, strict=True)):
        last = len(mine) if number else n + 40  # the first ends before the others
        torch.testing.assert_close(torch.stack(found[number]), wanted[number][:last], atol=2e-5, rtol=0)


def _remembering(
    model: Transformer, whole: list[Tensor], lengths: list[int], seen: Tensor, theirs: Tensor
) -> list[list[Tensor]]:
    """What the model says of each token of each sequence, the first ones together and the further ones one by one."""
    memory, first, rows = model.memory(), groups(lengths), torch.arange(len(lengths))
    start = torch.cat([x[:n] for x, n in zip(whole, lengths, strict=True)])
    context = Context.of(first, seen, theirs, together=True)
    begun = model(start, Layout.of(first, together=True), context=context, memory=memory)
    found = [list(part) for part in begun.split(lengths)]
    context = Context.of(rows, seen, theirs, together=True)
    for step in range(len(whole[0]) - lengths[0]):
        if step == 40:  # the first is done
            rows = rows[1:]
            memory.keep(torch.arange(1, len(rows) + 1))
            context = Context.of(rows, seen, theirs, together=True)
        x = torch.stack([whole[i][lengths[i] + step] for i in rows.tolist()])
        told = model(x, Layout.each(len(rows), x.device), context=context, memory=memory)
        for i, one in zip(rows.tolist(), told, strict=True):
            found[i].append(one)
    return found


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="5 heads do not divide a width of 48"):
        Attention(48, 5)
    with pytest.raises(ValueError, match="3 groups of keys do not divide 4 heads"):
        Attention(48, 4, groups=3)
    with pytest.raises(ValueError, match="5 heads do not divide a width of 48"):
        CrossAttention(48, 20, 5)
