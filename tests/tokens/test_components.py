from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from polyclinic.harmonise import Fingerprint, OmicsStandard
from polyclinic.harmonise.fitting import fit
from polyclinic.harmonise.omics import leading
from polyclinic.schema import Modality, Payload, Ragged, Record
from polyclinic.tokens import Components
from polyclinic.tokens.components import ComponentEncoder


def samples(values: np.ndarray) -> Ragged:
    m = len(values)
    made = torch.tensor(values, dtype=torch.float32)
    return Ragged(made, torch.arange(m), torch.zeros(m), None, m, [str(i) for i in range(m)])


def genes(n: int = 60, g: int = 200, seed: int = 0) -> np.ndarray:
    """Of a few hidden programmes and noise, (n g)."""
    random = np.random.default_rng(seed)
    made = random.normal(size=(n, 4)) * [4, 3, 2, 1.5] @ random.normal(size=(4, g)) + random.normal(size=(n, g))
    return (made - made.mean(0)) / made.std(0)


def encoder_of(loadings: np.ndarray) -> ComponentEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ComponentEncoder(
            Components(components=4, width=16, depth=0, heads=2), torch.tensor(loadings, dtype=torch.float32)
        )


def test_scores_are_scikit_learns_whitened_components() -> None:
    x = genes()
    theirs = PCA(4, whiten=True).fit(x).transform(x)
    mine = encoder_of(leading(x, 4)).scores(samples(x)).numpy()
    signs = np.sign((mine * theirs).sum(0))
    np.testing.assert_allclose(mine * signs, theirs * (60 / 59) ** 0.5, atol=2e-3)  # of n, theirs of n − 1
    np.testing.assert_allclose(mine.std(0), 1, atol=1e-3)


def test_what_is_hidden_cannot_be_read_off_the_rest() -> None:
    """Masked reconstruction asks for a component beside the others: over the training records they are uncorrelated."""
    x = genes()
    scores = encoder_of(leading(x, 4)).scores(samples(x)).numpy()
    np.testing.assert_allclose(np.corrcoef(scores.T), np.eye(4), atol=1e-3)


def test_there_are_no_more_components_than_what_varies() -> None:
    assert leading(genes(5), 16).shape == (4, 200)
    assert leading(np.repeat(genes(8), 2, axis=0)[:, :3], 16).shape == (3, 3)
    assert leading(np.zeros((6, 5)), 2).shape == (0, 5)


def test_half_the_genes_tell_about_as_much() -> None:
    """What was not measured adds nothing, and the sum over the rest keeps its spread."""
    x = genes(400, 400)
    encoder, half = encoder_of(leading(x, 2)), x.copy()
    half[:, ::2] = np.nan
    whole, part = encoder.scores(samples(x)), encoder.scores(samples(half))
    correlation = np.corrcoef(np.c_[whole[:, 0], part[:, 0]].T)[0, 1]
    assert correlation > 0.95
    assert 0.6 < float(part[:, 0].std()) < 1.1


def test_a_component_of_which_nearly_nothing_was_measured_is_no_token() -> None:
    loadings = np.array([[1.0, 1, 1, 0, 0], [0, 0, 0, 1, 1]])
    rows = np.array([[1.0, 2, 3, np.nan, np.nan], [np.nan] * 5, [1, np.nan, np.nan, 4, 5]])
    tokens = encoder_of(loadings).embed(samples(rows))
    assert tokens.lengths.tolist() == [1, 0, 2]
    assert tokens.position[:, 3].tolist() == [0, 0, 1]
    answers = encoder_of(loadings).answer(samples(rows))
    torch.testing.assert_close(answers[:, 0], torch.tensor([6.0, 3**0.5, 9.0]))


def test_the_fingerprint_holds_them_and_nobody_else_reads_the_cells_of_the_test_side(tmp_path) -> None:
    x = genes(30, 50)
    names = tuple(f"G{n:02}_rnaseq" for n in range(50))
    records = [Record(str(n), f"P{n}", None, Modality.OMICS, "RNA-seq", str(n)) for n in range(30)]
    load = lambda record: Payload(x[int(record.id)].astype(np.float32), names=names)
    made = fit(records, load, {Modality.OMICS: OmicsStandard(components=3)})
    assert np.array(made.components).shape == (3, 50)
    made.save(tmp_path / "fingerprint.json")
    assert Fingerprint.open(tmp_path / "fingerprint.json") == made
    assert fit(records, load, {Modality.OMICS: OmicsStandard()}).components == ()
    standard = made.gene_scale()
    scores = (
        Components(components=3, width=16, depth=0, heads=2)
        .build(made)
        .scores(samples((x - standard[0]) / standard[1]))
    )
    np.testing.assert_allclose(scores.std(0, correction=0).numpy(), 1, atol=0.02)


def test_without_components_in_the_fingerprint_it_has_its_size_and_no_tokens() -> None:
    encoder = Components(components=7, width=16, depth=0, heads=2).build(Fingerprint())
    assert encoder.weight.shape == (7, 16)
    assert encoder(samples(np.zeros((2, 0)))).lengths.tolist() == [0, 0]


def test_a_nan_reaches_no_gradient() -> None:
    x = genes(6, 20)
    encoder = encoder_of(leading(x, 2))
    x[0, :3] = np.nan
    encoder(samples(x)).values.sum().backward()
    assert encoder.weight.grad is not None
    assert encoder.weight.grad.isfinite().all()


@pytest.mark.parametrize("count", [0, -1])
def test_there_is_at_least_one(count: int) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Components(components=count)
