from __future__ import annotations

import pytest
import torch

from polyclinic.harmonise import Fingerprint
from polyclinic.schema import Ragged
from polyclinic.tokens import Programmes, phantom
from polyclinic.tokens.omics import OmicsEncoder, programmes

NAMES = ["A_rna", "B_cnv", "C_rna", "D_rna", "E_cnv"]


def samples(*rows: list[float]) -> Ragged:
    m = len(rows)
    return Ragged(torch.tensor(rows), torch.arange(m), torch.zeros(m), None, m, [str(i) for i in range(m)])


def encoder_of(genes: int = 2) -> OmicsEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return OmicsEncoder(Programmes(genes=genes, width=16, depth=1, heads=2), NAMES)


def test_a_programme_holds_genes_of_one_assay() -> None:
    assert programmes(NAMES, 2).tolist() == [[1, 4], [0, 2], [3, 5]]  # cnv; rna; rna and an empty place
    assert sorted(n for row in programmes(NAMES, 3).tolist() for n in row if n < 5) == [0, 1, 2, 3, 4]


def test_a_programme_of_which_nothing_was_measured_is_no_token() -> None:
    nan = torch.nan
    tokens = encoder_of().embed(samples([1.0, nan, 1.0, 2.0, nan], [nan] * 5, [nan, nan, nan, 2.0, 3.0]))
    assert tokens.lengths.tolist() == [2, 0, 2]
    assert tokens.position[:, 3].tolist() == [1, 2, 0, 2]


def test_a_gene_that_was_not_measured_is_not_a_zero() -> None:
    """By hand: the sum over the measured ones, times the root of the programme's size over theirs."""
    encoder = encoder_of(genes=3)
    tokens = encoder.embed(samples([2.0, torch.nan, torch.nan, 4.0, torch.nan]))
    place = encoder.position(tokens.position, tokens.time_h)
    weight = encoder.weight[1]  # the programme of the assay rna: A, C, D
    expected = (2 * weight[0] + 4 * weight[2]) * (3 / 2) ** 0.5 + encoder.name[1]
    torch.testing.assert_close((tokens.values - place)[0], expected, atol=1e-5, rtol=1e-5)


def test_answers_are_the_genes_with_nan_where_they_were_not_measured() -> None:
    wanted = encoder_of().answer(samples([1.0, torch.nan, torch.nan, 2.0, 5.0]))
    assert wanted.shape == (3, 2)
    assert torch.equal(wanted.nan_to_num(-9), torch.tensor([[-9.0, 5.0], [1.0, -9.0], [2.0, -9.0]]))


def test_training_records_without_a_gene_give_no_tokens() -> None:
    encoder = Programmes(width=16, depth=1, heads=2).build(Fingerprint())
    tokens = encoder(samples([], []))
    assert tokens.lengths.tolist() == [0, 0]


def test_a_nan_reaches_no_gradient() -> None:
    encoder = encoder_of()
    encoder(samples([1.0, torch.nan, 1.0, 2.0, torch.nan])).values.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    assert encoder.weight.grad is not None
    assert not encoder.weight.grad[0].any()  # nothing of the first programme was measured


@pytest.mark.parametrize("genes", [1, 8, 64])
def test_programmes_of_any_size(genes: int) -> None:
    encoder = Programmes(genes=genes, width=16, depth=1, heads=2).build(phantom.fingerprint())
    assert encoder(phantom.ragged(Programmes().standard(), {"a": 2})).values.isfinite().all()
