"""Packed tokens go side by side and back; sequences never see each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polyclinic.tokens.attention import Context, attend
from polyclinic.tokens.layout import SMALLEST_BUCKET, Layout
from polyclinic.tokens.transformer import Transformer

LENGTHS = st.lists(st.one_of(st.integers(1, 20), st.integers(21, 90)), min_size=1, max_size=7)
MIXED = [3, 40, 17, 1, 33, 64, 65]
few = settings(max_examples=25, deadline=None)


def groups(lengths: list[int]) -> Tensor:
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.int64))


def values(lengths: list[int], width: int, seed: int = 0) -> Tensor:
    return torch.randn(sum(lengths), width, generator=torch.Generator().manual_seed(seed))


def transformer(width: int = 12, heads: int = 3) -> Transformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Transformer(width, 2, heads)


@few
@given(LENGTHS, st.sampled_from([1, 2, 3]), st.booleans())
def test_side_by_side_and_back(lengths: list[int], rows: int, together: bool) -> None:
    packed, layout = values(lengths, 2 * rows), Layout.of(groups(lengths), together)
    seats = layout.seats(rows)
    sides = [side for (side,) in seats.split(packed, [rows])]
    assert torch.equal(seats.merge(sides), packed)
    # Every sequence stands whole in one row of one bucket, in its own order, its heads apart.
    wanted = [part.view(-1, rows, 2).transpose(0, 1) for part in packed.split(lengths)]
    found = [
        side[:, i, :n]
        for side, bucket in zip(sides, layout.buckets, strict=True)
        for i, n in enumerate(bucket.lengths.tolist())
    ]
    assert len(found) == len(wanted)
    assert all(any(a.shape == b.shape and torch.equal(a, b) for b in found) for a in wanted)
    assert not together or len(layout.buckets) == 1
    assert layout.order().tolist() == [i for n in lengths for i in range(n)]


@few
@given(LENGTHS)
def test_no_sequence_is_padded_beyond_twice_its_length(lengths: list[int]) -> None:
    layout = Layout.of(groups([*lengths, 1000]))
    for bucket in layout.buckets:
        assert bool((bucket.token.shape[1] <= torch.clamp(2 * bucket.lengths, min=SMALLEST_BUCKET)).all())
    assert sorted(int(n) for b in layout.buckets for n in b.lengths) == sorted([*lengths, 1000])


@few
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=6), st.booleans())
def test_pairs_stand_in_the_same_rows(sizes: list[tuple[int, int]], together: bool) -> None:
    own, other = (groups([size[i] for size in sizes]) for i in (0, 1))
    queries, keys = Layout.pair(own, other, together)
    met = []
    for a, b in zip(queries.buckets, keys.buckets, strict=True):
        assert torch.equal(own[a.token[:, 0]], other[b.token[:, 0]])
        met += list(zip(own[a.token[:, 0]].tolist(), a.lengths.tolist(), b.lengths.tolist(), strict=True))
    assert sorted(met) == [(i, n, m) for i, (n, m) in enumerate(sizes) if n and m]
    if queries.buckets:
        alone = torch.tensor([sizes[int(g)][1] == 0 for g in own], dtype=torch.bool)
        seats = queries.seats(2)
        back = seats.merge([side for (side,) in seats.split(own[:, None].repeat(1, 4).float() + 1, [2])])
        assert torch.equal(back[:, 0], torch.where(alone, 0, own + 1).float())
        assert (seats.standing is not None) == bool(alone.any())
    context = Context.of(own, torch.ones(len(other), 3), other, together)
    assert len(context.queries.buckets) == len(queries.buckets)


@pytest.mark.parametrize("lengths", [[2, 5, 17], [3, 3]])
def test_gradients_are_those_of_finite_differences(lengths: list[int]) -> None:
    layout = Layout.of(groups(lengths))
    enter, leave = layout.seats(6), layout.seats(2)
    qkv = values(lengths, 12).double().requires_grad_()

    def mixed(x: Tensor) -> Tensor:
        answers = []
        for (q, k, v), bucket in zip(enter.split(x, [2, 2, 2]), layout.buckets, strict=True):
            answers.append(attend(q, k, v, bucket.bias))
        return leave.merge(answers)

    assert torch.autograd.gradcheck(mixed, (qkv,), fast_mode=True)
    assert torch.autograd.gradgradcheck(mixed, (qkv,), fast_mode=True)


@few
@given(LENGTHS)
def test_packed_equals_one_sequence_at_a_time(lengths: list[int]) -> None:
    model, x = transformer(), values(lengths, 12)
    packed = model(x, Layout.of(groups(lengths)))
    alone = [model(part, Layout.of(groups([len(part)]))) for part in x.split(lengths)]
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("lengths", [MIXED, [9, 9, 9]])
def test_no_sequence_sees_another(lengths: list[int]) -> None:
    model, layout, x = transformer(), Layout.of(groups(lengths)), values(lengths, 12).requires_grad_()
    mine = groups(lengths) == 1
    before = model(x, layout)
    changed = torch.where(mine[:, None], -3 * x, x)
    assert torch.equal(model(changed, layout)[~mine], before[~mine])
    (gradient,) = torch.autograd.grad(before[mine].square().sum() + before[mine].sum(), x)
    assert bool((gradient[~mine] == 0).all())
    assert bool((gradient[mine] != 0).any())


def test_group_numbers_only_tell_sequences_apart() -> None:
    model, x = transformer(), values([4, 6], 12)
    assert torch.equal(model(x, Layout.of(groups([4, 6]))), model(x, Layout.of(groups([4, 6]) * 7 + 3)))


def test_no_tokens_at_all() -> None:
    x = torch.zeros(0, 12, requires_grad=True)
    answer = transformer()(x, Layout.of(torch.zeros(0, dtype=torch.int64)))
    assert answer.shape == (0, 12)
    answer.sum().backward()


def test_the_same_bits_twice() -> None:
    def once() -> list[Tensor]:
        model, x = transformer(48, 4), values(MIXED, 48).requires_grad_()
        (model(x, Layout.of(groups(MIXED))) * values(MIXED, 48, 1)).sum().backward()
        return [g for p in [x, *model.parameters()] if (g := p.grad) is not None]

    one, other = once(), once()
    assert len(one) > 1
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
