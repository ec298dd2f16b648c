"""BLEU, ROUGE-L and METEOR against the examples of their papers and of the kept toolkits, and what they promise of any two texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.tasks.wording import bleu, bleu_counts, meteor, rouge_l, words

TEXT = st.lists(
    st.sampled_from(["no", "left", "right", "effusion", "lobe", "the", "of", "in", "small", "effusions"]),
    min_size=1,
    max_size=25,
)


def one(written: str, reference: str, n: int = 4) -> float:
    return float(bleu(bleu_counts(written.split(), reference.split()), n))


def test_bleu_clips() -> None:
    """Papineni et al. 2002, section 2.1: modified unigram precision 2/7 (no penalty: it is the longer one)."""
    assert one("the the the the the the the", "the cat is on the mat", 1) == pytest.approx(2 / 7)


def test_bleu_of_a_short_one_is_penalised() -> None:
    assert one("a b c d", "a b c d e f g h") == pytest.approx(np.exp(1 - 8 / 4))


def test_bleu_is_the_geometric_mean() -> None:
    written, reference = "a b c d e x", "a b c d e f"
    assert one(written, reference) == pytest.approx((5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)


def test_bleu_of_a_set_adds_counts_up() -> None:
    """It is not the mean of its reports' BLEU."""
    pairs = [("a b c d e", "a b c d e"), ("a b x d e f", "a b c d e f g")]
    counts = np.array([bleu_counts(w.split(), r.split()) for w, r in pairs])
    matched = [5 + 5, 4 + 3, 3 + 1, 2 + 0]
    every = [5 + 6, 4 + 5, 3 + 4, 2 + 3]
    expected = np.prod(np.array(matched) / every) ** 0.25 * np.exp(1 - 12 / 11)
    assert float(bleu(counts.sum(0))) == pytest.approx(expected)
    assert bleu(counts)[1] == 0  # no 4-gram matches


@pytest.mark.parametrize(("written", "expected"), [("police kill the gunman", 0.75), ("the gunman kill police", 0.5)])
def test_rouge_l(written: str, expected: float) -> None:
    """Lin 2004, section 3.1."""
    assert rouge_l(written.split(), ["police", "killed", "the", "gunman"], beta=1) == pytest.approx(expected)


def test_rouge_l_weighs_recall() -> None:
    precision, recall = 1.0, 0.5
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l(["a", "b"], ["a", "b", "c", "d"]) == pytest.approx(expected)


def test_meteor() -> None:
    """Banerjee & Lavie 2005, section 3.2: two runs of six words."""
    written, reference = "the president spoke to the audience", "the president then spoke to the audience"
    precision, recall = 6 / 6, 6 / 7
    fmean = 10 * precision * recall / (recall + 9 * precision)
    assert meteor(written.split(), reference.split()) == pytest.approx(fmean * (1 - 0.5 * (2 / 6) ** 3))


def test_meteor_matches_stems_of_english() -> None:
    assert meteor(["effusions"], ["effusion"]) == pytest.approx(0.5)  # one run of one word
    assert meteor(["effusions"], ["effusion"], stems=False) == 0


@given(TEXT, TEXT)
def test_all_lie_in_the_unit_interval(written: list[str], reference: list[str]) -> None:
    for value in (
        float(bleu(bleu_counts(written, reference))),
        rouge_l(written, reference),
        meteor(written, reference),
    ):
        assert 0 <= value <= 1
    assert rouge_l(written, written) == pytest.approx(1)
    assert meteor(written, written) == pytest.approx(1 - 0.5 / len(written) ** 3)


def test_nothing_written() -> None:
    assert (float(bleu(bleu_counts([], ["a"]))), rouge_l([], ["a"]), meteor([], ["a"])) == (0, 0, 0)


def test_words() -> None:
    assert words("FINDINGS: 1.5 cm, left-sided; no change.") == ["findings", "1.5", "cm", "left-sided", "no", "change"]
