"""Packed tokens go side by side and back; sequences never see each other; patients' bags are joined in order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polyclinic.schema import Modality, Tokens
from polyclinic.tokens.packing import SMALLEST_BUCKET, Layout, counts, join, select, with_values
from polyclinic.tokens.transformer import Transformer, attend

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
@given(LENGTHS, st.sampled_from([1, 2, 3]))
def test_side_by_side_and_back(lengths: list[int], h: int) -> None:
    d = 2 * h
    qkv, heads = values(lengths, 3 * d), Layout.of(groups(lengths)).heads(h)
    sides = heads.split(qkv)
    for number, name in enumerate("qkv"):
        packed = heads.merge([getattr(side, name) for side in sides])
        assert torch.equal(packed, qkv[:, number * d : (number + 1) * d])
    # Every sequence stands whole in one row of one bucket, in its own order, its heads apart.
    wanted = [part[:, :d].view(-1, h, 2).transpose(0, 1) for part in qkv.split(lengths)]
    found = [row[:, : _real(side.bias, i, row)] for side in sides for i, row in enumerate(side.q)]
    assert len(found) == len(wanted)
    assert all(any(a.shape == b.shape and torch.equal(a, b) for b in found) for a in wanted)


def _real(bias: Tensor | None, row: int, q: Tensor) -> int:
    return q.shape[1] if bias is None else int(torch.isfinite(bias[row]).sum())


@few
@given(LENGTHS)
def test_no_sequence_is_padded_beyond_twice_its_length(lengths: list[int]) -> None:
    layout = Layout.of(groups([*lengths, 1000]))
    for bucket in layout.buckets:
        own = bucket.inside.sum(1)
        assert bool((bucket.token.shape[1] <= torch.clamp(2 * own, min=SMALLEST_BUCKET)).all())
    assert sorted(int(n) for b in layout.buckets for n in b.inside.sum(1)) == sorted([*lengths, 1000])


@pytest.mark.parametrize("lengths", [[2, 5, 17], [3, 3]])
def test_gradients_are_those_of_finite_differences(lengths: list[int]) -> None:
    heads = Layout.of(groups(lengths)).heads(2)
    qkv = values(lengths, 12).double().requires_grad_()
    mixed = lambda x: heads.merge([attend(*side) for side in heads.split(x)])
    assert torch.autograd.gradcheck(mixed, (qkv,), fast_mode=True)


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


def bag(modality: Modality, patient: list[int], record: list[int], patients: int, first: float) -> Tokens:
    """Tokens whose value, place and hour are all the token's own number."""
    n = len(patient)
    mark = torch.arange(n) + first
    number = torch.full((n,), modality.number)
    who = torch.tensor(patient, dtype=torch.int64)
    return Tokens(
        mark[:, None], who, number, torch.tensor(record), mark[:, None].repeat(1, 4), mark, counts(who, patients)
    )


def test_join_sorts_by_patient_and_keeps_records_apart() -> None:
    image = bag(Modality.IMAGE, [0, 0, 2], [0, 0, 1], 3, 10)
    text = bag(Modality.TEXT, [0, 1, 1, 2], [0, 1, 2, 3], 3, 20)
    both = join([image, text])
    assert both.values.flatten().tolist() == [10, 11, 20, 21, 22, 12, 23]
    assert both.patient.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert both.record.tolist() == [0, 0, 2, 3, 4, 1, 5]  # two image records, then text's
    assert both.modality.tolist() == [0, 0, 4, 4, 4, 0, 4]
    assert both.lengths.tolist() == [3, 2, 2]
    assert both.position[:, 3].tolist() == both.time_h.tolist() == both.values.flatten().tolist()


def test_join_with_a_modality_nobody_has() -> None:
    image = bag(Modality.IMAGE, [0, 2], [0, 1], 3, 10)
    none = bag(Modality.TEXT, [], [], 3, 0)
    for parts in ([image, none], [none, image]):
        both = join(parts)
        assert both.values.flatten().tolist() == [10, 11]
        assert both.record.tolist() == [0, 1]
        assert both.lengths.tolist() == [1, 0, 1]


def test_select_keeps_whole_rows_and_counts_them() -> None:
    text = bag(Modality.TEXT, [0, 1, 1, 2], [0, 1, 2, 3], 4, 20)
    some = select(text, torch.tensor([False, True, False, True]))
    assert some.values.flatten().tolist() == some.time_h.tolist() == some.position[:, 0].tolist() == [21, 23]
    assert some.patient.tolist() == [1, 2]
    assert some.record.tolist() == [1, 3]
    assert some.lengths.tolist() == [0, 1, 1, 0]


def test_with_values_changes_nothing_else() -> None:
    text = bag(Modality.TEXT, [0, 1], [0, 1], 2, 0)
    other = with_values(text, torch.ones(2, 5))
    assert other.values.shape == (2, 5)
    assert other.patient is text.patient
    assert text.values.shape == (2, 1)
