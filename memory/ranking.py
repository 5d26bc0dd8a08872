"""Exact ranking by inner product over the parts of a window: the first k of one stable full sort.

A row's score is `np.vecdot(unit row, query)`: it depends on that row and the query alone, not on k, on how rows are cut
into segments or on filters. FAISS finds candidates in sealed segments and blocks, on the stored halves; its sums may
differ in the last bits and its order of ties is not contractual, so every candidate within the rounding bound of the
k-th score is scored again here.

Knows nothing of frames, times or files.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from memory.halves import decode
from memory.records import Float16, Float32, Int64

_LEAST, _SHARES = 32, 8  # candidates asked of each part: so many, and so many times its share of k
CHUNK_ROWS = 256  # decoded and scored at once: half a megabyte at D = 512 stays in the cache


class Ranked(Protocol):
    """A run of rows of the window, in order."""

    @property
    def first_row(self) -> int: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def index(self) -> Any:
        """faiss index that holds the rows, or None: rank row by row."""

    @property
    def index_start(self) -> int:
        """First row of this part in the index."""

    def halves(self) -> Float16:
        """(num_rows, D) stored rows."""

    def scales(self) -> Float32:
        """(num_rows,) what makes each a unit vector."""


def prepare() -> None:
    """Loads FAISS now (a tenth of a second) rather than inside the first append that seals a segment."""
    build_index(np.zeros((1, 1), np.float16))


def build_index(halves: Float16) -> Any:
    """An exact inner-product index over float16 rows, holding a copy of halves (n, D), bit for bit."""
    import faiss  # imported when first needed: the command line must answer --help at once

    count, dim = halves.shape
    index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    # not `add`: it takes float32 and would round once more
    faiss.copy_array_to_vector(np.ascontiguousarray(halves, "<f2").view(np.uint8).reshape(-1), index.codes)
    index.ntotal = count
    return index


def index_rows(index: Any) -> Float16:
    """(n, D) view of the index's own storage, which lives as long as this view of it or any view of that."""
    import faiss

    codes = faiss.rev_swig_ptr(index.codes.data(), index.ntotal * index.code_size)
    rows: Float16 = np.asarray(_Owned(codes.view("<f2").reshape(index.ntotal, index.d), index))
    return rows


class _Owned:
    """Memory of an index as an array's base: the index is not freed before the last view."""

    def __init__(self, rows: Float16, index: Any) -> None:
        self.__array_interface__ = rows.__array_interface__
        self._index = index


def score_rows(unit: Float32, query: Float32) -> Float32:
    """(n,) scores, each computed from its own row alone. (A matrix product is not like that: BLAS blocks rows.)"""
    scores: Float32 = np.vecdot(unit, query)
    return scores


def rank_all(parts: Sequence[Ranked], query: Float32) -> tuple[Int64, Float32]:
    """All rows by falling score, ties by lower row."""
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    scores = np.concatenate([_score_part(part, query) for part in parts])
    order = np.argsort(-scores, kind="stable")
    return order, scores[order]


def rank_top(parts: Sequence[Ranked], query: Float32, k: int) -> tuple[Int64, Float32]:
    """The first k of `rank_all`, for k well below the number of rows."""
    num_rows = sum(part.num_rows for part in parts)
    # of each part several times its share: more would rarely be needed, and where it is, all of the part is scored
    found = [_candidates(part, query, _LEAST + _SHARES * k * part.num_rows // num_rows) for part in parts]
    kth = np.partition(np.concatenate([scores for _, scores, _ in found]), -k)[-k]
    # |computed - true| <= (D + 4) 2^-24 |row||query| for either way of summing; so a row of the true first k lies
    # within twice their difference of the k-th score found
    cutoff = kth - 4 * (query.shape[0] + 4) * 2.0**-24 * float(np.linalg.norm(query))
    rows, scores = [], []
    for part, (offsets, rough, rest) in zip(parts, found, strict=True):
        if rest >= cutoff:
            near = np.arange(part.num_rows)  # FAISS stopped among rows that might belong
        else:
            near = offsets[rough >= cutoff]
        if len(near):
            rows.append(near + part.first_row)
            scores.append(score_rows(decode(part.halves()[near], part.scales()[near]), query))
    all_rows, all_scores = np.concatenate(rows), np.concatenate(scores)
    order = np.lexsort((all_rows, -all_scores))[:k]
    return all_rows[order], all_scores[order]


def _candidates(part: Ranked, query: Float32, k: int) -> tuple[Int64, Float32, float]:
    """Offsets inside the part, their scores up to rounding, and a bound (up to rounding) for all rows left out."""
    if part.index is None or k >= part.num_rows:
        return np.arange(part.num_rows), _score_part(part, query), -np.inf
    import faiss

    faiss.omp_set_num_threads(1)  # a setting of the calling thread; two threads are far slower for one query
    stop = part.index_start + part.num_rows
    whole = part.index_start == 0 and stop == part.index.ntotal
    parameters: Any = faiss.SearchParameters
    only = None if whole else parameters(sel=faiss.IDSelectorRange(part.index_start, stop))
    products, labels = part.index.search(query[None], k, params=only)
    offsets, scales = labels[0] - part.index_start, part.scales()
    last = float(products[0, -1])  # no product left out is larger; the scale makes a score of it
    return offsets, products[0] * scales[offsets], last * float(scales.max() if last > 0 else scales.min())


def _score_part(part: Ranked, query: Float32) -> Float32:
    """(num_rows,) scores of the whole part."""
    scores: Float32 = np.empty(part.num_rows, np.float32)
    halves, scales = part.halves(), part.scales()
    for chunk in chunks(part.num_rows):
        scores[chunk] = score_rows(decode(halves[chunk], scales[chunk]), query)
    return scores


def chunks(count: int) -> Iterator[slice]:
    """Consecutive slices of CHUNK_ROWS rows or fewer that cover `count`."""
    return (slice(start, min(start + CHUNK_ROWS, count)) for start in range(0, count, CHUNK_ROWS))
