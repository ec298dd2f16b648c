"""The nearest of many unit vectors: exact where they are few, by an inverted file where they are a million (FAISS, Douze et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import MissingExtraError

EXACT = 20_000
"""Up to so many vectors every one is compared: a product of matrices, and no library besides."""
WANTED = 0.99
"""Of the ten nearest ones, how many an inverted file is to find."""
ASKED, SEEN = 500, 40
"""How many of the vectors are asked for when that is measured; how many a list are looked at to place the lists."""


class Nearest:
    """Cosine similarity among n unit vectors (n e).

    Args:
        vectors: (n e) float32, of length 1; None where a file of lists holds them.
        lists: FAISS's index; None where every vector is compared.
        recall: the share of the ten nearest ones that it finds, measured; 1 where every vector is compared.
    """

    def __init__(self, vectors: np.ndarray | None, lists: Any = None, recall: float = 1.0) -> None:
        self.vectors, self.lists, self.recall = vectors, lists, recall

    @classmethod
    def of(cls, vectors: np.ndarray, asked: np.ndarray | None = None, exact: int = EXACT) -> Nearest:
        """Of vectors (n e), read once.

        Above `exact` they are dealt to 4 √n lists by k-means, and as many lists are searched as find `WANTED` of the ten nearest
        ones of those who will ask.

        Args:
            vectors: (n e) unit vectors.
            asked: (q e) what will be asked, or a sample of it: words look for images from elsewhere in the space, and more lists
                have to be searched for them; None for a sample of the vectors.
            exact: up to how many every one is compared.
        Raises:
            MissingExtraError: they are many, and FAISS is not installed.
        """
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        n, width = vectors.shape
        if n <= exact:
            return cls(vectors)
        faiss = _faiss()
        count = int(4 * n**0.5)
        random = np.random.default_rng(0)
        lists = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, count, faiss.METRIC_INNER_PRODUCT)
        lists.cp.min_points_per_centroid = 1
        lists.train(vectors[random.choice(n, min(n, SEEN * count), replace=False)])
        lists.add(vectors)
        asked = vectors if asked is None else np.ascontiguousarray(asked, dtype=np.float32)
        asked = asked[random.choice(len(asked), min(len(asked), ASKED), replace=False)]
        true = [set(row) for row in _best(vectors, asked, 10)[1].tolist()]
        recall = 0.0
        for lists.nprobe in _doubled(count):
            found = lists.search(asked, 10)[1]
            recall = float(np.mean([len(a & set(b)) / len(a) for a, b in zip(true, found.tolist(), strict=True)]))
            if recall >= WANTED:
                break
        return cls(None, lists, recall)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines (q k) and numbers (q k) of the nearest vectors, the nearest first; fewer than k where there are no more.

        Args:
            queries: (q e) unit vectors.
            k: how many; at least 1.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if self.lists is None:
            assert self.vectors is not None
            return _best(self.vectors, queries, k)
        alike, found = self.lists.search(queries, min(k, self.lists.ntotal))
        return alike, found

    def vector(self, number: int) -> np.ndarray:
        """(e) the vector of a number."""
        if self.vectors is not None:
            return self.vectors[number]
        self.lists.make_direct_map()
        return self.lists.reconstruct(number)

    def write(self, path: Path) -> None:
        """Keep it in a file: `.npy` where every vector is compared, else FAISS's `.faiss`."""
        if self.vectors is not None:
            np.save(path.with_suffix(".npy"), self.vectors)
        else:
            _faiss().write_index(self.lists, str(path.with_suffix(".faiss")))

    @classmethod
    def open(cls, path: Path, recall: float = 1.0) -> Nearest:
        """As `write` kept it."""
        if path.with_suffix(".npy").exists():
            return cls(np.load(path.with_suffix(".npy"), mmap_mode="r"))
        return cls(None, _faiss().read_index(str(path.with_suffix(".faiss"))), recall)


def _faiss() -> Any:
    try:
        import faiss  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError("faiss-cpu", "search") from error
    return faiss


def _best(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of all vectors; of equals the first."""
    alike = queries @ vectors.T
    k = min(k, len(vectors))
    few = np.sort(np.argpartition(-alike, k - 1, axis=1)[:, :k], axis=1)
    order = np.take_along_axis(few, np.argsort(-np.take_along_axis(alike, few, 1), axis=1, kind="stable"), 1)
    return np.take_along_axis(alike, order, 1), order


def _doubled(most: int) -> Sequence[int]:
    """1, 2, 4 … and all."""
    return [*(1 << i for i in range(most.bit_length()) if 1 << i < most), most]
