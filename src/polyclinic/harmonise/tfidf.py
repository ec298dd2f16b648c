"""Text as a bag of terms: which words and pairs of words stand in a note, and how much each of them tells.

Of a hundred patients' notes nothing can be learned about the meaning of words, but which words go together is known without a label:
the directions in which the training notes differ most (latent semantic analysis) hold most of what their terms say. Only terms
that several training patients share are kept, for a rarer one (a name, a place, a date) would point at a person.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..schema import Payload, PolyclinicError, Record
from .fingerprint import Fingerprint


class TermsError(PolyclinicError):
    """Notes that share no term."""


class TfidfStandard(BaseModel):
    """Each kept term's weight in the note, (1 + ln count) · idf, the note of length one.

    Args:
        vocabulary: terms at most; those that most training patients have are kept.
        fewest: training patients in whose notes a term must stand to be kept; never one alone.
        directions: how many leading directions of the training notes the fingerprint is to hold.

    Source: Salton & Buckley 1988, with the smoothed idf of scikit-learn, over patients.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["text"] = "text"
    vocabulary: int = Field(default=5000, ge=1)
    fewest: int = Field(default=3, ge=2)
    directions: int = Field(default=100, ge=1)


@cache
def _cutting() -> tuple[Any, Any]:
    """What normalises a note and what cuts it: Chinese characters stand alone, vowel signs and accents stay with their letters."""
    from tokenizers import normalizers, pre_tokenizers

    bert = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False
    )  # fmt: skip
    return normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), bert]), pre_tokenizers.BertPreTokenizer()


def terms(text: str) -> Iterator[str]:
    """The words of a text, lower-cased, and each pair of neighbours; what has no letter and no digit is no word."""
    normal, cut = _cutting()
    words = [w for w, _ in cut.pre_tokenize_str(normal.normalize_str(text)) if any(c.isalnum() for c in w)]
    yield from words
    yield from (f"{one} {other}" for one, other in pairwise(words))


def idf(notes: Sequence[tuple[str, str]], standard: TfidfStandard) -> dict[str, float]:
    """The inverse document frequency of each term that is kept, ln((1 + patients) / (1 + those who have it)) + 1, by name.

    Args:
        notes: patient and text.
        standard: how many terms, and of how many patients each.
    Raises:
        TermsError: none is shared by so many.
    """
    own: dict[str, set[str]] = {}
    for patient, text in notes:
        own.setdefault(patient, set()).update(terms(text))
    count = Counter(term for mine in own.values() for term in mine)
    shared = sorted((t for t, n in count.items() if n >= standard.fewest), key=lambda t: (-count[t], t))
    if not shared:
        raise TermsError(
            f"the notes of {len(own)} training patients, in which no word is of {standard.fewest} patients",
            "words that several patients' notes share",
            "lower `fewest` (to no less than 2), or read the notes by `bert`",
        )
    return {t: float(np.log((1 + len(own)) / (1 + count[t])) + 1) for t in sorted(shared[: standard.vocabulary])}


def directions(notes: Sequence[tuple[str, str]], standard: TfidfStandard, fingerprint: Fingerprint) -> np.ndarray:
    """(k t) the leading right singular vectors of the notes' weights, the largest loading of each positive.

    Fewer than asked for where there are fewer notes or terms, or where nothing differs any more.

    Source: Deerwester et al. 1990; by Halko, Martinsson and Tropp 2011, as scikit-learn has it.
    """
    from scipy.sparse import csr_matrix, vstack
    from sklearn.utils.extmath import randomized_svd

    rows = vstack([csr_matrix(weights(text, fingerprint)) for _, text in notes]).astype(np.float64)
    count = min(standard.directions, len(notes), len(fingerprint.terms))
    made: Any = randomized_svd(rows, count, n_iter=7, random_state=0, flip_sign=False)  # pyright: ignore[reportArgumentType]
    _, strength, right = made
    right = right[strength > 1e-6 * strength.max(initial=0.0)]
    return right * np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])[:, None]


def weights(text: str, fingerprint: Fingerprint) -> np.ndarray:
    """(t,) float32 in the fingerprint's order, of length one; zeros of a text in which no kept term stands."""
    place, scale = fingerprint.term_scale()
    count = Counter(place[term] for term in terms(text) if term in place)
    out = np.zeros(len(scale), dtype=np.float32)
    at = np.fromiter(count.keys(), dtype=np.int64, count=len(count))
    out[at] = (1 + np.log(np.fromiter(count.values(), dtype=np.float64, count=len(count)))) * scale[at]
    return out / max(float(np.linalg.norm(out)), 1e-12)


def fit(notes: Sequence[tuple[str, str]], standard: TfidfStandard) -> tuple[Mapping[str, float], np.ndarray]:
    """The terms that are kept with their idf, and the directions (k t); arguments and errors as `idf`'s."""
    kept = idf(notes, standard)
    return kept, directions(notes, standard, Fingerprint(terms=kept))


def harmonise(payload: Payload, record: Record, standard: TfidfStandard, fingerprint: Fingerprint) -> Payload:
    """(t,) float32, the weight of each of the fingerprint's terms."""
    return Payload(weights(payload.text or "", fingerprint), text=payload.text)
