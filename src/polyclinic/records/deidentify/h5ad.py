"""AnnData: observations get new names, their columns are cleaned as a table's, matrices and genes stay; `uns` and the rest go.

The file is written anew, so that nothing is left of what HDF5 keeps of deleted parts. 10x's matrices are `hdf5.py`'s.

Source: AnnData's on-disk format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .. import h5ad as reader
from .. import tables as tables_reader
from ..source import LARGEST_BYTES, RecordError
from . import samples, tables
from .cleaning import Cleaning
from .hdf5 import BARCODE, gene
from .known import Known

_GENES = frozenset(
    {
        "gene_ids", "gene_id", "gene_name", "gene_names", "gene_symbols", "feature_types", "feature_type", "genome",
        "highly_variable", "means", "dispersions", "n_cells", "dispersions_norm", "mt", "total_counts", "mean_counts",
        "pct_dropout_by_counts", "n_cells_by_counts", "chromosome", "start", "end", "strand",
    }
)  # fmt: skip
"""Columns of `var` that are genes' own."""


def survey(path: Path, place: str, known: Known) -> str | None:
    """Note whose observations they are; the decoder of another process looks whether the file is sound."""
    root = path.parent
    for _ in reader.read(path, root):
        pass
    table = _loaded(path).obs
    column = tables_reader.find(list(map(str, table.columns)), reader.DONOR_COLUMNS)
    if column is not None:
        samples.note(map(str, table[column].unique()), known)
        return ""
    if all(BARCODE.search(str(name)) for name in table.index[:100]):
        return None
    samples.note(map(str, table.index), known)
    return ""


def _loaded(path: Path) -> Any:
    import anndata

    if path.stat().st_size > LARGEST_BYTES:
        raise RecordError("AnnData of over 2 GiB", "less", "write a file a patient")
    return anndata.read_h5ad(path)


def deidentify(path: Path, to: Path, cleaning: Cleaning) -> None:
    """Write the matrix anew.

    Raises:
        RecordError: it is larger than 2 GiB.
    """
    import anndata
    import pandas as pd

    data = _loaded(path)
    numeric = lambda matrix: getattr(matrix, "dtype", np.dtype(object)).kind in "biuf"
    var = data.var[[c for c in data.var.columns if str(c) in _GENES]].copy()
    var.index = pd.Index([gene(str(name), cleaning) for name in data.var_names])
    for column in var.columns:
        if var[column].dtype.kind not in "biuf":
            var[column] = [gene(str(cell), cleaning) for cell in var[column]]
    obs = _observations(data.obs, cleaning)
    new = anndata.AnnData(data.X if data.X is None or numeric(data.X) else None, obs=obs, var=var)
    for name, layer in data.layers.items():
        if numeric(layer):
            new.layers[_word(name, cleaning)] = layer
    for name, places in data.obsm.items():
        if numeric(places):
            new.obsm[_word(name, cleaning)] = np.asarray(places)
    if data.raw is not None and numeric(data.raw.X):
        genes = pd.DataFrame(index=pd.Index([gene(str(n), cleaning) for n in data.raw.var_names]))
        new.raw = anndata.AnnData(data.raw.X, obs=obs.iloc[:, :0], var=genes)
    for part in ("uns", "varm", "obsp", "varp"):
        if len(getattr(data, part)):
            cleaning.did(part, "X")
    new.write_h5ad(to, compression="gzip")


def _word(name: object, cleaning: Cleaning) -> str:
    """`counts`, `X_pca`, `spatial` stay; another name is a pseudonym."""
    text = str(name)
    harmless = re.fullmatch(
        r"counts|raw_counts|spliced|unspliced|ambiguous|log\w{0,8}|normali[sz]ed|scaled|X_\w{2,12}|spatial", text
    )
    return text if harmless and not cleaning.says_who(text.removeprefix("X_")) else cleaning.key.pseudonym(text)


def _observations(obs: Any, cleaning: Cleaning) -> Any:
    """The table of observations, each row its donor's, under other names."""
    import pandas as pd

    names = [str(name) for name in obs.index]
    donor = tables_reader.find(list(map(str, obs.columns)), reader.DONOR_COLUMNS)
    kinds = {str(column): obs[column].dtype for column in obs.columns}
    people = [samples.person_of(str(p)) for p in obs[donor]] if donor else [samples.person_of(n) for n in names]
    texts = [["" if pd.isna(cell) else str(cell) for cell in obs[column]] for column in obs.columns]

    @contextmanager
    def opened() -> Iterator[tuple[list[str], Iterator[tuple[int, list[str]]]]]:
        rows = zip(people, *texts, strict=True)
        yield ["patient_id", *map(str, obs.columns)], ((n, list(row)) for n, row in enumerate(rows, 1))

    cleaner = tables.Cleaner.of(cleaning, opened=opened, part="obs ")
    kept = cleaner.plan()
    rows = list(cleaner.rows())
    index = [_cell_name(name, cleaning) for name in names] if donor else samples.renamed_all(names, cleaning)
    new = pd.DataFrame(index=pd.Index(index))
    for number, (heading, column) in enumerate(kept):
        if column is cleaner.columns[0]:
            continue
        cells = [row[number] for row in rows]
        if column.name == donor:
            cells = [cleaning.key.pseudonym(person) for person in people]
        numeric = getattr(kinds[column.name], "kind", "O") in "iuf" and column.action in ("keep", "age")
        if numeric:
            new[heading] = pd.to_numeric(pd.Series(cells, index=new.index, dtype=object), errors="coerce")
        else:
            new[heading] = pd.Categorical(cells)
    return new


def _cell_name(name: str, cleaning: Cleaning) -> str:
    """A cell's barcode is no one's, but its whole name is."""
    return name if BARCODE.fullmatch(name) else f"{cleaning.key.pseudonym(name)}"
