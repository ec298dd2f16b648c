"""How near the words of a report are to those of a reference: BLEU, ROUGE-L and METEOR, as papers on report generation quote them.

Words are compared in small letters and without punctuation, as the captioning toolkit of COCO does (Chen et al. 2015). BLEU is of a whole
set, from counts that add up over its reports; the other two are means over reports. No kept library has all three without
a download: METEOR here matches words and, in English, their stems, but no synonyms, for which the published one needs WordNet, so that its
figures are lower than those.

These say how alike two texts sound and little of whether they say the same: "no effusion" and "effusion" differ by a word
(see `correctness`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from .stem import stem

GRAMS = 4
_WORD = re.compile(r"[^\W_]+(?:[-'.][^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text in small letters."""
    return _WORD.findall(text.lower())


def bleu_counts(written: Sequence[str], reference: Sequence[str]) -> np.ndarray:
    """(2 GRAMS + 2,) of a report: matched n-grams for n = 1 … `GRAMS`, clipped by the reference's; all n-grams; both lengths."""
    matched, every = [], []
    for n in range(1, GRAMS + 1):
        mine, theirs = (Counter(zip(*(text[i:] for i in range(n)), strict=False)) for text in (written, reference))
        matched.append(sum((mine & theirs).values()))
        every.append(sum(mine.values()))
    return np.array([*matched, *every, len(written), len(reference)], dtype=float)


def bleu(counts: np.ndarray, n: int = GRAMS) -> np.ndarray:
    """BLEU-n of sets of reports, without smoothing (Papineni et al. 2002).

    Args:
        counts: (… 2 GRAMS + 2) of `bleu_counts`, summed over each set.
        n: the longest n-gram, all weighing alike.
    Returns:
        (…) 0 where no n-gram of some length matches.
    """
    matched, every = counts[..., :n], counts[..., GRAMS : GRAMS + n]
    length, wanted = counts[..., -2], counts[..., -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.exp(np.log(matched / every).mean(-1))
        brevity = np.where(length > wanted, 1.0, np.exp(1 - wanted / length))
    return np.where((matched > 0).all(-1), precision * brevity, 0.0)


def rouge_l(written: Sequence[str], reference: Sequence[str], beta: float = 1.2) -> float:
    """ROUGE-L: F of the longest common subsequence (Lin 2004, equations 2-4); recall weighs beta² as much as precision.

    The toolkit of COCO takes 1.2, as here; the package `rouge-score` takes 1.
    """
    row = np.zeros(len(reference) + 1, dtype=int)
    for word in written:
        before = row.copy()
        for j, other in enumerate(reference):
            row[j + 1] = before[j] + 1 if word == other else max(row[j], before[j + 1])
    common = int(row[-1])
    if not common:
        return 0.0
    precision, recall = common / len(written), common / len(reference)
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def meteor(written: Sequence[str], reference: Sequence[str], stems: bool = True) -> float:
    """METEOR with words and stems, without synonyms: F with recall nine times precision, less for words that lie apart.

    Args:
        written, reference: words.
        stems: whether stems match too; they are English ones.
    Source: Banerjee & Lavie 2005, sections 3.1 and 3.2 (alpha 0.9, beta 3, gamma 0.5 in the terms of Lavie & Agarwal 2007). The
        alignment with the fewest runs is looked for by taking the longest run first.
    """
    one, other = ([stem(w) for w in text] if stems else list(text) for text in (written, reference))
    matched, runs = _aligned(one, other)
    if not matched:
        return 0.0
    precision, recall = matched / len(written), matched / len(reference)
    return 10 * precision * recall / (recall + 9 * precision) * (1 - 0.5 * (runs / matched) ** 3)


def _aligned(one: Sequence[str], other: Sequence[str]) -> tuple[int, int]:
    """How many words are matched, as many as can be, and in how many runs."""
    free, open_ = [True] * len(one), [True] * len(other)
    matched = runs = 0
    while True:
        best = (0, 0, 0)
        lengths = np.zeros(len(other) + 1, dtype=int)
        for i, word in enumerate(one):
            before = lengths.copy()
            for j, theirs in enumerate(other):
                lengths[j + 1] = before[j] + 1 if free[i] and open_[j] and word == theirs else 0
                if lengths[j + 1] > best[0]:
                    best = (int(lengths[j + 1]), i, j)
        length, i, j = best
        if not length:
            return matched, runs
        for k in range(length):
            free[i - k] = open_[j - k] = False
        matched, runs = matched + length, runs + 1
