"""Exact ranking by inner product over the parts of a window: the first k of one stable full sort.

A row's score is `np.vecdot(row, query)`: it depends on that row and the query alone, not on k, on how rows are cut into
segments or on filters. FAISS finds candidates in sealed segments; its sums may differ in the last bits and its order of
ties is not contractual, so every candidate within the rounding bound of the k-th score is scored again here.

Knows nothing of frames, times or files.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from memory.records import Float32, Int64


class Ranked(Protocol):
    """A run of rows of the window, in order."""

    @property
    def first_row(self) -> int: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def index(self) -> Any:
        """faiss index over the segment, or None: rank row by row."""

    @property
    def index_start(self) -> int:
        """First row of this part in the index."""

    def units(self) -> Float32:
        """(num_rows, D) unit vectors."""


def prepare() -> None:
    """Loads FAISS now (a tenth of a second) rather than inside the first append that seals a segment."""
    import faiss

    faiss.IndexFlatIP(1)


def build_index(unit: Float32) -> Any:
    """An IndexFlatIP holding a copy of unit (n, D)."""
    import faiss  # imported when first needed: the command line must answer --help at once

    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(np.ascontiguousarray(unit))
    return index


def index_rows(index: Any) -> Float32:
    """(n, D) view of the index's own storage. Valid only while the index lives: hold both."""
    import faiss

    flat = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
    rows: Float32 = flat.reshape(index.ntotal, index.d)
    return rows


def score_rows(unit: Float32, query: Float32) -> Float32:
    """(n,) scores, each computed from its own row alone. (A matrix product is not like that: BLAS blocks rows.)"""
    scores: Float32 = np.vecdot(unit, query)
    return scores


def rank_all(parts: Sequence[Ranked], query: Float32) -> tuple[Int64, Float32]:
    """All rows by falling score, ties by lower row."""
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    scores = np.concatenate([score_rows(part.units(), query) for part in parts])
    order = np.argsort(-scores, kind="stable")
    return order, scores[order]


def rank_top(parts: Sequence[Ranked], query: Float32, k: int) -> tuple[Int64, Float32]:
    """The first k of `rank_all`, for k well below the number of rows."""
    found = [_candidates(part, query, k) for part in parts]
    kth = np.partition(np.concatenate([scores for _, scores in found]), -k)[-k]
    # |computed - true| <= D 2^-24 |row||query| for either way of summing; so a row of the true first k lies within
    # twice their difference of FAISS's k-th score
    cutoff = kth - 4 * query.shape[0] * 2.0**-24 * float(np.linalg.norm(query))
    rows, scores = [], []
    for part, (offsets, rough) in zip(parts, found, strict=True):
        if len(offsets) < part.num_rows and rough[-1] >= cutoff:
            near = np.arange(part.num_rows)  # FAISS stopped among rows that might belong
        else:
            near = offsets[rough >= cutoff]
        if len(near):
            rows.append(near + part.first_row)
            scores.append(score_rows(part.units()[near], query))
    all_rows, all_scores = np.concatenate(rows), np.concatenate(scores)
    order = np.lexsort((all_rows, -all_scores))[:k]
    return all_rows[order], all_scores[order]


def _candidates(part: Ranked, query: Float32, k: int) -> tuple[Int64, Float32]:
    """Offsets inside the part and their scores: at least its first k up to rounding, by falling score where cut."""
    if part.index is None or k >= part.num_rows:
        return np.arange(part.num_rows), score_rows(part.units(), query)
    import faiss

    faiss.omp_set_num_threads(1)  # a setting of the calling thread; two threads are far slower for one query
    stop = part.index_start + part.num_rows
    selector = faiss.IDSelectorRange(part.index_start, stop)
    parameters: Any = faiss.SearchParameters
    scores, labels = part.index.search(query[None], k, params=parameters(sel=selector))
    return labels[0] - part.index_start, scores[0]
