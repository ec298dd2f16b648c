"""The decoder of HDF5 (`h5py`), which `apart.py` runs: AnnData (.h5ad), 10x (.h5), and features of a slide's tiles (.h5).

Formats: AnnData's on-disk format 0.1.0 and 0.2.0 (encoding-type of `csr_matrix`, `csc_matrix`, `array`, `dataframe`, `categorical`,
nullable columns); 10x Genomics' feature-barcode matrix version 3 (`/matrix`, columns are barcodes); CLAM's and TRIDENT's `/features`
and `/coords`.

Observations (cells, spots, samples) are put in groups: cells of one patient, or a sample alone. No matrix is ever dense but for
the groups asked for, and nothing is read whole that is larger than 256 MiB. No link is followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

AT_ONCE = 2**28
"""Bytes of one array that are read whole."""
BLOCK = 2**22
"""Values of a matrix that are read at once."""
CELLS_EACH = 10
"""Over so many observations a patient, by the median, they are cells."""
MOST_COLUMNS = 200
COUNTS = ("layers/counts", "layers/raw_counts", "raw/X", "X")
_BARCODE = re.compile(r"(^|[^A-Z])[ACGT]{12,}([^A-Z]|$)")
_WHOLE = ("a whole HDF5 file", "write it again")


def found(place: str, why: str) -> ValueError:
    """What is wrong with a part of the file."""
    return ValueError(f"{place!r} in an HDF5 file, which is {why}", *_WHOLE)


def member(group: Any, place: str) -> Any:
    """A group or dataset below; None where there is none. Links that lead elsewhere are refused, inside the file too."""
    for name in place.split("/"):
        if not isinstance(group, h5py.Group) or (link := group.get(name, getlink=True)) is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise ValueError(
                "an HDF5 file with links to elsewhere", "data in the file itself", "copy in what they lead to"
            )
        group = group[name]
    if isinstance(group, h5py.Dataset):
        if group.external or group.is_virtual:
            raise ValueError(
                "an HDF5 file whose data lie in other files", "data in the file itself", "repack it (h5repack)"
            )
        chunk = np.prod(group.chunks or (1,), dtype=float) * group.dtype.itemsize
        if chunk > AT_ONCE:
            raise found(place.rpartition("/")[2], f"in chunks of {chunk / 2**30:.1f} GiB")
    return group


def whole(group: Any, place: str) -> np.ndarray:
    """A one-dimensional array; words as str."""
    data = member(group, place)
    if not isinstance(data, h5py.Dataset) or data.ndim != 1:
        raise found(place, "no column")
    size = data.shape[0] * data.dtype.itemsize
    if size > AT_ONCE:
        raise found(place, f"{size / 2**30:.1f} GiB long")
    if data.dtype.kind in "OS":
        return np.concatenate([np.empty(0, object), *_words(data, place)])
    return data[()]


def _words(data: Any, place: str) -> Iterator[np.ndarray]:
    """Blocks of words; many references to one long word are counted as they come."""
    most = AT_ONCE
    for start in range(0, data.shape[0], 4096):
        block = data[start : start + 4096]
        words = np.array([w.decode("utf-8", "replace") if isinstance(w, bytes) else str(w) for w in block], object)
        most -= sum(map(len, words))
        if most < 0:
            raise found(place, "of words beyond bound")
        yield words


def codes(frame: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of a data frame as (code of each row, -1 where not known; the values)."""
    column = member(frame, name)
    if isinstance(column, h5py.Group) and "categories" in column:
        values, code = whole(column, "categories"), whole(column, "codes").astype(np.int64)
        return np.where((code >= 0) & (code < len(values)), code, -1), values
    if isinstance(column, h5py.Group) and "values" in column:  # nullable
        values, known = whole(column, "values"), ~whole(column, "mask").astype(bool)
        if len(known) != len(values):
            raise found(name, "a column whose mask is of another length")
    else:
        values = whole(frame, name)
        known = np.ones(len(values), bool) if values.dtype.kind in "OSbiu" else ~np.isnan(values)
    unique, code = np.unique(values[known], return_inverse=True)
    out = np.full(len(values), -1, np.int64)
    out[known] = code.ravel()
    return out, unique


@dataclass(frozen=True)
class Observations:
    """The file's rows in groups.

    Args:
        frame: their data frame; None for 10x.
        group: (n,) the number of each row's group, -1 where it is nobody's.
        who: of each group, the patient's name as it stands there; None where the file does not say.
        cells: whether a group is many cells.
        by_name: whether `who` is the row's own name, not a column's.
        column: which column named them, or the name of the index.
    """

    frame: Any
    group: np.ndarray
    who: list[str] | None
    cells: bool
    by_name: bool
    column: str | None


def plain(name: str) -> str:
    """As `tables.plain`; a decoder imports nothing of the library."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def columns_of(frame: Any) -> list[str]:
    """The names of a data frame's columns, without the index."""
    index = str(frame.attrs.get("_index", "_index"))
    return [str(n) for n in frame if n not in (index, "__categories")][:MOST_COLUMNS]


def _shown(value: Any) -> str:
    number = float(value) if isinstance(value, np.floating | float) else None
    return str(int(number)) if number is not None and number.is_integer() else str(value).strip()


def observations(file: Any, patients: Sequence[str]) -> Observations:
    """Who the rows are of.

    Args:
        file: open.
        patients: names of columns that name patients, plain, the best first.
    """
    if (matrix := member(file, "matrix")) is not None:
        names = whole(matrix, "barcodes")
        wells = {str(n).rpartition("-")[2] for n in names}
        if len(wells) > 1:
            raise ValueError(
                f"a 10x matrix of {len(wells)} libraries, which does not say whose they are",
                "one a file, or an .h5ad with a patient column", "give each library's own matrix",
            )  # fmt: skip
        kept = member(matrix, "filtered_barcodes")
        chosen = whole(matrix, "filtered_barcodes").astype(bool) if kept is not None else np.ones(len(names), bool)
        if len(chosen) != len(names):
            raise found("filtered_barcodes", "of another length than the barcodes")
        return Observations(None, np.where(chosen, 0, -1), None, True, False, None)
    frame = member(file, "obs")
    if not isinstance(frame, h5py.Group):
        raise ValueError(
            "an HDF5 file that is neither AnnData 0.7 or newer nor a 10x matrix", "one of them", "convert it"
        )
    index = str(frame.attrs.get("_index", "_index"))
    names = whole(frame, index)
    barcodes = len(names) > 0 and sum(bool(_BARCODE.search(str(n))) for n in names[:100]) > min(len(names), 100) / 2
    by = {plain(n): n for n in reversed(columns_of(frame))}
    column = next((by[p] for p in patients if p in by), None)
    if column is None:
        if barcodes:
            return Observations(frame, np.zeros(len(names), np.int64), None, True, False, None)
        return Observations(frame, np.arange(len(names)), [_shown(n) for n in names], False, True, index)
    code, values = codes(frame, column)
    if len(code) != len(names):
        raise found(column, "of another length than the index")
    used = np.unique(code[code >= 0])
    each = np.bincount(code[code >= 0]) if len(used) else np.zeros(1)
    if barcodes or np.median(each[each > 0] if len(used) else each) > CELLS_EACH:
        group = np.full(len(code), -1, np.int64)
        group[code >= 0] = np.searchsorted(used, code[code >= 0])
        return Observations(frame, group, [_shown(values[u]) for u in used], True, False, column)
    who = [_shown(values[c]) if c >= 0 else "" for c in code]
    return Observations(frame, np.arange(len(code)), who, False, False, column)


@dataclass(frozen=True)
class Matrix:
    """n observations × g genes, however they lie.

    Args:
        data: a dataset (n g), or a group of `data`, `indices` and `indptr`.
        rows, genes: n and g.
        by_gene: whether the sparse form runs along genes (CSC of n × g).
    """

    data: Any
    rows: int
    genes: int
    by_gene: bool

    def blocks(self, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(row, gene, value) of what is stored, block after block; blocks along the rows without a wanted one are passed over.

        Args:
            wanted: (n,) bool.
        """
        if isinstance(self.data, h5py.Dataset):
            step = max(1, BLOCK // max(self.genes, 1))
            for start in range(0, self.rows, step):
                if wanted[start : start + step].any():
                    block = self.data[start : start + step]
                    row, gene = np.indices(block.shape)
                    yield row.ravel() + start, gene.ravel(), block.ravel()
            return
        ends = whole(self.data, "indptr").astype(np.int64)
        data, indices = member(self.data, "data"), member(self.data, "indices")
        across, along = (self.rows, self.genes) if self.by_gene else (self.genes, self.rows)
        sizes = np.diff(ends)
        if len(ends) != along + 1 or ends[0] != 0 or (sizes < 0).any() or data is None or indices is None:
            raise found("indptr", "not of its matrix")
        if not (data.shape == indices.shape == (int(ends[-1]),)):
            raise found("indices", "not as long as the data")
        for start in range(0, int(ends[-1]), BLOCK):
            stop = min(start + BLOCK, int(ends[-1]))
            first, last = np.searchsorted(ends, start, "right") - 1, np.searchsorted(ends, stop, "left")
            if not (self.by_gene or wanted[first:last].any()):
                continue
            lengths = np.minimum(ends[first + 1 : last + 1], stop) - np.maximum(ends[first:last], start)
            major, minor = np.repeat(np.arange(first, last), lengths), indices[start:stop].astype(np.int64)
            if len(minor) and (minor.min() < 0 or minor.max() >= across):
                raise found("indices", "outside its matrix")
            yield (minor, major, data[start:stop]) if self.by_gene else (major, minor, data[start:stop])


def matrix(file: Any, place: str) -> Matrix:
    """A matrix of the file.

    Args:
        place: `X`, `raw/X`, `layers/NAME`; `matrix` for 10x.
    """
    data = member(file, place)
    if isinstance(data, h5py.Dataset) and data.ndim == 2 and data.dtype.kind in "iufb":
        return Matrix(data, *map(int, data.shape), by_gene=False)
    if isinstance(data, h5py.Group):
        shape = (
            whole(data, "shape") if place == "matrix" else data.attrs.get("shape", data.attrs.get("h5sparse_shape", ()))
        )
        kind = str(data.attrs.get("encoding-type", data.attrs.get("h5sparse_format", "csr")))
        if len(shape) == 2:
            n, g = (int(shape[1]), int(shape[0])) if place == "matrix" else (int(shape[0]), int(shape[1]))
            return Matrix(data, n, g, by_gene=kind.startswith("csc"))
    raise found(place, "no matrix of numbers")


def _is_counts(of: Matrix) -> bool:
    """Whether what is stored are whole numbers, none negative, as far as a block shows."""
    data = of.data if isinstance(of.data, h5py.Dataset) else member(of.data, "data")
    if not isinstance(data, h5py.Dataset) or not data.size:
        return False
    step = max(1, 20_000 // max(int(np.prod(data.shape[1:], dtype=float)), 1))
    some = np.asarray(data[:step], dtype=float)
    return bool((np.isfinite(some) & (some >= 0) & (some == np.round(some))).all() and some.max() >= 1)


def chosen(file: Any) -> tuple[str, Matrix, bool]:
    """Which matrix is read, and whether it counts: the counts, where the file has them, else `X`."""
    if member(file, "matrix") is not None:
        return "matrix", matrix(file, "matrix"), True
    for place in COUNTS:
        if member(file, place) is not None and _is_counts(of := matrix(file, place)):
            return place, of, True
    return "X", matrix(file, "X"), False


def gene_names(file: Any, place: str, genes: int) -> tuple[list[str], np.ndarray]:
    """The names of a matrix's genes, and which of its features are genes (not antibodies or guides)."""
    if place == "matrix":
        frame, kind = member(file, "matrix/features"), "feature_type"
        index = "gene_name" if member(file, "matrix/features/gene_name") is not None else "name"
    else:
        frame, kind = member(file, "raw/var" if place == "raw/X" else "var"), "feature_types"
        index = str(frame.attrs.get("_index", "_index")) if isinstance(frame, h5py.Group) else "_index"
    names = [str(n) for n in whole(frame, index)]
    if len(names) != genes:
        raise found(index, f"{len(names)} names of {genes} genes")
    if member(frame, kind) is None:
        return names, np.ones(genes, bool)
    code, values = codes(frame, kind)
    is_gene = np.array([str(v) == "Gene Expression" for v in values] + [False])[code]
    return names, is_gene if is_gene.any() and len(is_gene) == genes else np.ones(genes, bool)


def described(path: str, patients: list[str]) -> Iterator[dict[str, Any]]:
    """What the file holds, then what it says of each group.

    Yields:
        of the file {matrix, counts, genes, layers, cells, named_by, nobody: rows of nobody}; of each group
        {who: None where the file does not say, n: observations, about: the columns that are one value within the group}.
    """
    with h5py.File(path, "r") as file:
        rows, (place, of, counts) = observations(file, patients), chosen(file)
        if of.rows != len(rows.group):
            raise found(place, f"{of.rows} rows of {len(rows.group)} observations")
        _, genes = gene_names(file, place, of.genes)
        layers = member(file, "layers")
        yield {
            "matrix": place, "counts": counts, "genes": int(genes.sum()), "cells": rows.cells, "column": rows.column,
            "by_name": rows.by_name, "nobody": int((rows.group < 0).sum()) if rows.who is not None else 0,
            "layers": [str(n) for n in layers] if isinstance(layers, h5py.Group) else [],
            "columns": columns_of(rows.frame) if rows.frame is not None else [],
        }  # fmt: skip
        inside = rows.group >= 0
        sizes = np.bincount(rows.group[inside], minlength=1)
        about: list[dict[str, Any]] = [{} for _ in sizes]
        for name in columns_of(rows.frame) if rows.frame is not None else []:
            column = member(rows.frame, name)
            if name != rows.column and (isinstance(column, h5py.Group) or column.ndim == 1):
                _within(about, name, *codes(rows.frame, name), rows.group)
        for number, size in enumerate(sizes):
            yield {"who": rows.who[number] if rows.who else None, "n": int(size), "about": about[number]}


def _within(about: list[dict[str, Any]], name: str, code: np.ndarray, values: np.ndarray, group: np.ndarray) -> None:
    """Put a column's value down for each group in which it is one."""
    if len(code) != len(group):
        raise found(name, "of another length than the index")
    known = (group >= 0) & (code >= 0)
    low, high = np.full(len(about), len(values)), np.full(len(about), -1)
    np.minimum.at(low, group[known], code[known])
    np.maximum.at(high, group[known], code[known])
    for number in np.nonzero(low == high)[0]:
        value = values[low[number]]
        about[number][name] = value.item() if isinstance(value, np.generic) else str(value)


def profiles(path: str, patients: list[str], first: int, last: int) -> Iterator[Any]:
    """The names of the genes, whether they are counts, then (g,) float64 of each group first..last-1.

    Counts are summed over a group's observations, other values are their mean.
    """
    with h5py.File(path, "r") as file:
        rows, (place, of, counts) = observations(file, patients), chosen(file)
        if of.rows != len(rows.group):
            raise found(place, f"{of.rows} rows of {len(rows.group)} observations")
        names, genes = gene_names(file, place, of.genes)
        yield [n for n, is_gene in zip(names, genes, strict=True) if is_gene]
        yield counts
        last = min(last, int(rows.group.max(initial=-1)) + 1)
        if (size := (last - first) * of.genes * 8) > 4 * AT_ONCE:
            raise found(place, f"{size / 2**30:.1f} GiB of groups")
        wanted = (rows.group >= first) & (rows.group < last)
        total = np.zeros(max(last - first, 0) * of.genes)
        for row, gene, value in of.blocks(wanted):
            kept = wanted[row]
            np.add.at(total, (rows.group[row[kept]] - first) * of.genes + gene[kept], value[kept].astype(np.float64))
        sizes = np.bincount(rows.group[wanted] - first, minlength=last - first) if wanted.any() else []
        for profile, n in zip(total.reshape(-1, of.genes), sizes, strict=True):
            yield (profile if counts else profile / n)[genes]


def holds_tiles(path: str) -> Iterator[bool]:
    """Whether the file says where a slide's tiles lie, or what they look like."""
    with h5py.File(path, "r") as file:
        yield any(file.get(name, getclass=True) is h5py.Dataset for name in ("coords", "features"))


def tiles(path: str) -> Iterator[Any]:
    """What the file says of a slide's n tiles, then (n 2) their upper left corners, then blocks of their (n d) float32 features.

    Yields:
        first {n, d, side: pixels of level 0, told: whether the file says so, mpp and magnification of level 0, or None}.
    """
    with h5py.File(path, "r") as file:
        features, coords = (_rows(file, name) for name in ("features", "coords"))
        (n, d), at = features.shape[-2:], np.asarray(coords[()], np.float64).reshape(coords.shape[-2:])
        if at.shape != (n, 2) or not np.isfinite(at).all():
            raise ValueError(f"{n} tiles' features and coordinates of shape {at.shape}", "x and y of each", _WHOLE[1])
        number = lambda *names: next(
            (v for name in names for item in (coords, features, file) if (v := _told(item, name))), None
        )
        size, by = number("patch_size"), number("downsample")
        side = number("patch_size_level0", "patch_size_lv0") or (size * by if size and by else None)
        if not (any_side := side or _gap(at) or size):
            raise ValueError("one tile without its size", "the attribute `patch_size_level0` of `coords`", "write it")
        yield {
            "n": n, "d": d, "side": any_side, "told": side is not None, "mpp": number("level0_mpp", "mpp_level0", "mpp"),
            "magnification": number("level0_magnification"),
        }  # fmt: skip
        yield at
        step = max(1, BLOCK // d)
        for start in range(0, n, step):
            block = features[(0,) * (features.ndim - 2) + (slice(start, start + step),)].astype(np.float32)
            if bad := int((~np.isfinite(block)).any(1).sum()):
                raise ValueError(f"{bad} tiles with features that are no numbers", "numbers", "compute them again")
            yield block


def _rows(file: Any, name: str) -> Any:
    """A dataset (n d), or (1 n d) as some write it; of coordinates no more than are read whole."""
    data = member(file, name)
    shape = getattr(data, "shape", ())
    if len(shape) - (shape[:1] == (1,) and len(shape) == 3) != 2 or data.dtype.kind not in "iuf" or 0 in shape:
        is_what = f"of shape {tuple(shape)}" if data is not None else "not there"
        raise ValueError(
            f"{name!r} of a slide's tiles, which is {is_what}",
            "a row of numbers a tile",
            "write both `features` and `coords`",
        )
    if name == "coords" and data.size * data.dtype.itemsize > AT_ONCE:
        raise found(name, "beyond bound")
    return data


def _told(item: Any, name: str) -> float | None:
    """A positive number of an object's attributes, the first where it has one an axis."""
    try:
        value = np.asarray(item.attrs[name], np.float64).ravel()[0]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return float(value) if np.isfinite(value) and value > 0 else None


def _gap(at: np.ndarray) -> float | None:
    """The commonest distance between neighbours in a row or a column; None where no two share one."""
    gaps = []
    for along in (0, 1):
        rows = at[np.lexsort((at[:, along], at[:, 1 - along]))]
        apart = np.diff(rows, axis=0)
        gaps.append(apart[(apart[:, 1 - along] == 0) & (apart[:, along] > 0), along])
    values, often = np.unique(np.concatenate(gaps), return_counts=True)
    return float(values[often.argmax()]) if len(values) else None
