"""Rank the rows of a window exactly by inner product with a query: find the k rows with the highest scores.

A window is an immutable view of stored frames, made of parts that lie in different arrays. A row's score is
`np.vecdot(unit row, query)`, where the unit row is the frame's normalised embedding. The score depends on nothing else:
not on k, not on how rows are divided into parts, and not on filters. The result is the beginning of a stable full sort.

FAISS only finds candidates, by searching the stored float16 rows. Its sums may differ in the last bits, and it orders
equal scores arbitrarily. So all candidates that could be among the first k within the rounding error are scored again.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from memory.codec import decode
from memory.records import Float16, Float32, Int64

_LEAST, _SHARES = 32, 8  # candidates of each part: 32 + 8 times its share of k
CHUNK_ROWS = 256  # decoded at once: half a megabyte at D = 512 fits the CPU cache


class Index(Protocol):
    """The methods and attributes of a FAISS index that are used here."""

    ntotal: int
    d: int
    code_size: int
    codes: Any

    def search(self, queries: Float32, k: int, /, *, params: Any = ...) -> tuple[Float32, Int64]:
        """Return the inner products and positions (queries, k) of the nearest rows."""


class Ranked(Protocol):
    """Consecutive rows of a window that can be ranked: `num_rows` of them, from row `first_row` on."""

    @property
    def first_row(self) -> int: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def index(self) -> Index | None:
        """The FAISS index that contains the rows. None: there is no index, so all rows are scored."""

    @property
    def index_start(self) -> int:
        """The position of the first row in the index."""

    def halves(self) -> Float16:
        """Return the rows as they are stored, (num_rows, D) float16."""

    def scales(self) -> Float32:
        """Return the factors (num_rows,) by which the stored rows become unit vectors."""


def prepare() -> None:
    """Import FAISS now (0.1 s), so that it does not delay the first append that builds an index."""
    build_index(np.zeros((1, 1), np.float16))


def build_index(halves: Float16) -> Index:
    """Return an exact inner-product index that holds a bit-identical copy of the float16 rows (n, D)."""
    import faiss  # here, so that the command line answers --help at once

    count, dim = halves.shape
    index: Index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    # not `add`, which takes float32 and rounds again
    faiss.copy_array_to_vector(np.ascontiguousarray(halves, "<f2").view(np.uint8).reshape(-1), index.codes)
    index.ntotal = count
    return index


def index_rows(index: Index) -> Float16:
    """Return the rows (n, D) of an index as a view of its storage. The view and its views keep the index alive."""
    import faiss

    codes = faiss.rev_swig_ptr(index.codes.data(), index.ntotal * index.code_size)
    rows: Float16 = np.asarray(_Owned(codes.view("<f2").reshape(index.ntotal, index.d), index))
    return rows


class _Owned:
    """The base object of the array that `index_rows` returns. It holds a reference to the index."""

    def __init__(self, rows: Float16, index: Index) -> None:
        self.__array_interface__ = rows.__array_interface__
        self._index = index


def score_rows(unit: Float32, query: Float32) -> Float32:
    """Return the scores (n,) of unit rows (n, D), each computed independently of the other rows.

    A matrix product is not used, as in BLAS the rounding of one row's score may depend on the number of rows.
    """
    scores: Float32 = np.vecdot(unit, query)
    return scores


def rank_all(parts: Sequence[Ranked], query: Float32) -> tuple[Int64, Float32]:
    """Return all row numbers and their scores, by falling score. Of equal scores, the lower row comes first."""
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    scores = np.concatenate([_score_part(part, query) for part in parts])
    order = np.argsort(-scores, kind="stable")
    return order, scores[order]


def rank_top(parts: Sequence[Ranked], query: Float32, k: int) -> tuple[Int64, Float32]:
    """Return the first k entries of `rank_all`. Faster than it if k is well below the number of rows."""
    num_rows = sum(part.num_rows for part in parts)
    # several times each part's share: where that is not enough, all of the part is scored
    found = [_candidates(part, query, _LEAST + _SHARES * k * part.num_rows // num_rows) for part in parts]
    kth = np.partition(np.concatenate([scores for _, scores, _ in found]), -k)[-k]
    # |computed - true| <= (D + 4) 2^-24 |row||query| for both ways of summing, so every row of the true first k scores
    # at least this:
    cutoff = kth - 4 * (query.shape[0] + 4) * 2.0**-24 * float(np.linalg.norm(query))
    rows, scores = [], []
    for part, (offsets, rough, rest) in zip(parts, found, strict=True):
        if rest >= cutoff:
            near = np.arange(part.num_rows)  # FAISS may have left out rows that belong
        else:
            near = offsets[rough >= cutoff]
        if len(near):
            rows.append(near + part.first_row)
            scores.append(score_rows(decode(part.halves()[near], part.scales()[near]), query))
    all_rows, all_scores = np.concatenate(rows), np.concatenate(scores)
    order = np.lexsort((all_rows, -all_scores))[:k]
    return all_rows[order], all_scores[order]


def _candidates(part: Ranked, query: Float32, k: int) -> tuple[Int64, Float32, float]:
    """Return the candidates for the first k rows: offsets in the part, and approximate scores.

    The third value is an upper bound of the scores of all other rows, also up to rounding.
    """
    if part.index is None or k >= part.num_rows:
        return np.arange(part.num_rows), _score_part(part, query), -np.inf
    import faiss

    faiss.omp_set_num_threads(1)  # of the calling thread; two threads are far slower for one query
    stop = part.index_start + part.num_rows
    whole = part.index_start == 0 and stop == part.index.ntotal
    parameters: Any = faiss.SearchParameters
    only = None if whole else parameters(sel=faiss.IDSelectorRange(part.index_start, stop))
    products, labels = part.index.search(query[None], k, params=only)
    offsets, scales = labels[0] - part.index_start, part.scales()
    last = float(products[0, -1])  # the largest product that may be left out
    return offsets, products[0] * scales[offsets], last * float(scales.max() if last > 0 else scales.min())


def _score_part(part: Ranked, query: Float32) -> Float32:
    """Return the exact scores (num_rows,) of all rows of the part."""
    scores: Float32 = np.empty(part.num_rows, np.float32)
    halves, scales = part.halves(), part.scales()
    for chunk in chunks(part.num_rows):
        scores[chunk] = score_rows(decode(halves[chunk], scales[chunk]), query)
    return scores


def chunks(count: int) -> Iterator[slice]:
    """Yield consecutive slices of at most CHUNK_ROWS rows that cover `count`."""
    return (slice(start, min(start + CHUNK_ROWS, count)) for start in range(0, count, CHUNK_ROWS))
