"""Which bins a histogram has: fine where scores crowd, coarse where they spread, and the same for any order of data.

Memory is bounded, so not every float32 can have a bin of its own. The resolution of a page (an eighth of a power
of two, see `keys`) is a function of nothing but the set of chunks (256 neighboring floats) that scores have
fallen into, and it only ever gets coarser as chunks are added. So what a coarse bin has lost is lost whatever
the order, and histograms of parts of the data add up to the histogram of all, bin by bin.

The rule, for a category (row) with a budget of ``bins``:

- A page may take at most ``2^cap`` bins. ``cap`` is the largest one at which all pages together fit into half
  the budget, where a page counts with what it would take at full resolution, or with ``2^cap`` if that is less.
  Only where that leaves a page fewer than `ENOUGH` bins, the rest of the budget is used, to give it that many.
- A page with few chunks is *sparse*: only its chunks have bins, as many of the 256 each as the cap allows. One
  float per bin, no information lost, as long as there are at most ``2^(cap - 8)`` chunks: quantized, constant,
  saturated scores, or negative log-likelihoods around -1e5, where floats themselves are coarse.
- A page with many chunks is *dense*: ``2^cap`` bins of equal width.
- Pages more than `NEAR` powers of two below the top have caps 8 times smaller: scores near 0 spread over many powers
  of two and matter least. The top is where the `RARE` + 1st page lies, counted from the largest scores down, so that
  a few outliers do not move it.
- Scores crowd at 1 and -1 (sigmoids, softmaxes, similarities), where floats do not get finer as they do towards 0.
  The pages just inside are *graded*: sparse always, with a cap of their own, and never coarser than full resolution
  within 8,192 floats of 1, half of that within twice the distance, and so on.

Letters: R rows, P pages of all rows (row * 4096 + page), L blocks of neighboring bins, K bins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ader.metrics.keys import CHUNK_BITS, CHUNKS, PAGE_BITS, PAGES, octave

Int = npt.NDArray[np.int64]

NEAR = 8  # powers of two
RARE = 15  # pages
FAR_LOSS = 3  # bits of resolution that farther pages have less
ENOUGH = 12  # log2 of the bins of a page that make it resolve one part in 32,768
BELOW_ONE = 126 << 3 | 7  # page of [0.9375, 1); with the sign bit, of its negatives
GRADES = 10 * 128  # bins that grading takes, if full resolution ends one chunk from 1
OCTAVES = 256
SPARSE_CHUNKS = CHUNKS // 2  # with more, equal bins resolve as much as bins by chunk
MANY = 1 << 12  # scores that are quicker counted than sorted
LEAST_BINS = 1 << 14
ABSENT = -1
PAGE_SHIFT_BITS = 5  # of an entry of `Layout.pages`
PAGE_SHIFT_MASK = (1 << PAGE_SHIFT_BITS) - 1
SHIFT_BITS = 4  # of an entry of ``node_NC``
SHIFT_MASK = (1 << SHIFT_BITS) - 1


class Blocks(NamedTuple):
    """Runs of neighboring bins: their row, the bits where the first one starts, its place, bits that a bin does
    not resolve, and how many bins there are."""

    row_L: Int
    bits_L: Int
    place_L: Int
    shift_L: Int
    length_L: Int

    def bins(self) -> tuple[Int, Int, Int, Int]:
        """Row, bits at the start, place and shift of every bin; bits of a row ascend if the blocks' do."""
        start_L = np.cumsum(self.length_L) - self.length_L
        row_K, bits_K, place_K, shift_K, start_K = (
            np.repeat(each, self.length_L) for each in (self.row_L, self.bits_L, self.place_L, self.shift_L, start_L)
        )
        within_K = np.arange(len(row_K)) - start_K
        return row_K, bits_K + (within_K << shift_K), place_K + within_K, shift_K


class Move(NamedTuple):
    """Bins whose counts have to go elsewhere (several may go to one place), leaving their own places empty."""

    source_K: Int
    target_K: Int


NONE = np.zeros(0, np.int64)
STAY = Move(NONE, NONE)


class Layout:
    """Where the bin of a score is.

    Args:
        rows: categories.
        bins: budget per row, at least 16,384.

    Attributes:
        base_P: int32; `ABSENT`; or the place of a dense page's first bin; or ``-2 - n`` of a sparse page, whose
            chunks are row ``n`` of ``node_NC``.
        shift_P: int32; bits that a bin of a dense page does not resolve.
        node_NC: int32; of each chunk of a sparse page ``place << 4 | shift``, or `ABSENT`.
        size: places given out so far: so many counts are needed.
        version: grows when one of the tables changes.
    """

    def __init__(self, rows: int, bins: int) -> None:
        if bins < LEAST_BINS:
            raise ValueError(f"bins: expected at least {LEAST_BINS}, got {bins}")
        self.bins = bins
        self.largest_cap = min(16, bins.bit_length() - 4)  # an eighth of the budget
        self.graded_cap = min(14, self.largest_cap)
        self.base_P = np.zeros(0, dtype=np.int32)
        self.shift_P = np.zeros(0, dtype=np.int32)
        self.node_NC = np.full((8, CHUNKS), ABSENT, dtype=np.int32)
        self.size = 0
        self.version = 0
        self._cap_R = np.zeros(0, dtype=np.int64)
        self._chunks_P = np.zeros(0, dtype=np.int32)  # met so far; a dense page's are no longer counted
        self._free_nodes = list(range(len(self.node_NC)))
        self._free = [NONE for _ in range(PAGE_BITS + 1)]  # places of blocks, by log2 of their length
        self.extend(rows)

    def extend(self, rows: int) -> None:
        """Adds empty rows."""
        self.version += 1
        pages = rows * PAGES
        self.base_P = np.concatenate([self.base_P, np.full(pages, ABSENT, dtype=np.int32)])
        self.shift_P = np.concatenate([self.shift_P, np.zeros(pages, dtype=np.int32)])
        self._chunks_P = np.concatenate([self._chunks_P, np.zeros(pages, dtype=np.int32)])
        self._slot_P = np.zeros(len(self._chunks_P), dtype=np.int64)  # scratch
        self._cap_R = np.concatenate([self._cap_R, np.full(rows, self.largest_cap, dtype=np.int64)])

    def place(self, row_N: Int, bits_N: Int) -> Int:
        """Place of the bin of each score in its row; `ABSENT` where there is none yet."""
        page_N = _page(row_N, bits_N)
        base_N, shift_N = self.base_P[page_N].astype(np.int64), self.shift_P[page_N]
        place_N = np.where(base_N >= 0, base_N + ((bits_N & ((1 << PAGE_BITS) - 1)) >> shift_N), ABSENT)
        sparse = base_N < ABSENT
        bits, entry = bits_N[sparse], self.node_NC[-2 - base_N[sparse], _chunk(bits_N[sparse])].astype(np.int64)
        within = (bits & ((1 << CHUNK_BITS) - 1)) >> (entry & SHIFT_MASK)
        place_N[sparse] = np.where(entry == ABSENT, ABSENT, (entry >> SHIFT_BITS) + within)
        return place_N

    def pages(self) -> npt.NDArray[np.int32]:
        """For each page ``place << 5 | shift`` if it is dense; else as ``base_P``: what kernels look up."""
        return np.where(self.base_P >= 0, self.base_P << PAGE_SHIFT_BITS | self.shift_P, self.base_P)

    def blocks(self, rows: Int) -> Blocks:
        """All bins of some rows, in ascending order of row and bits."""
        return self._blocks(np.flatnonzero(self.base_P != ABSENT), rows)

    def caps(self) -> Int:
        """The rows' caps: log2 of the bins that a page near the largest score may have."""
        return self._cap_R.copy()

    def admit(self, row_N: Int, bits_N: Int, shift_N: Int | None = None, cap_R: Int | None = None) -> Move:
        """Makes room for scores, or for the bins of another histogram with as many rows.

        Args:
            row_N, bits_N: where the scores, or the bins, are.
            shift_N: of the bins.
            cap_R: the other histogram's caps.

        Returns:
            Counts that have to be moved before anything is counted.
        """
        page_N = _page(row_N, bits_N)
        code = self._new_chunks(page_N, _chunk(bits_N))
        if cap_R is None and len(code) == 0:
            return STAY
        self.version += 1
        fresh, chunks = np.unique(code >> 12, return_counts=True)
        self._chunks_P[fresh] += chunks.astype(np.int32)
        if shift_N is not None:
            self._chunks_P[page_N[shift_N > CHUNK_BITS]] = CHUNKS
        if cap_R is None:
            rows = np.unique(fresh // PAGES)
        else:
            self._cap_R = np.minimum(self._cap_R, cap_R)
            rows = np.arange(len(self._cap_R))
        page, shift, is_dense = (np.concatenate(each) for each in zip(*map(self._resolve, rows), strict=True))
        return self._rearrange(page, shift, is_dense, code)

    def _new_chunks(self, page_N: Int, chunk_N: Int) -> Int:
        """The chunks (page << 12 | chunk of the page) that have no bins yet, each once, ascending."""
        pages = np.flatnonzero(np.bincount(page_N)) if len(page_N) > MANY else np.unique(page_N)
        self._slot_P[pages] = np.arange(len(pages)) << 12
        met = np.zeros((len(pages), CHUNKS), dtype=np.bool_)
        met.reshape(-1)[self._slot_P[page_N] + chunk_N] = True  # quicker than sorting chunks, one for each pixel
        base = self.base_P[pages].astype(np.int64)
        met[base >= 0] = False
        met[base < ABSENT] &= self.node_NC[-2 - base[base < ABSENT]] == ABSENT
        found = np.flatnonzero(met)
        code: Int = (pages[found >> 12] << 12) + (found & (CHUNKS - 1))
        return code

    def _resolve(self, row: int) -> tuple[Int, Int, npt.NDArray[np.bool_]]:
        """The rule: pages of a row whose bins must change (or begin), their new shifts, and whether they are dense."""
        chunks = self._chunks_P[row * PAGES : (row + 1) * PAGES]
        page = np.flatnonzero(chunks)
        n, height = chunks[page].astype(np.int64), octave(page)
        largest = int(self._cap_R[row])
        while largest > 0 and self._cost(largest, page, n, height) > self.bins // (1 if largest <= ENOUGH else 2):
            largest -= 1
        self._cap_R[row] = largest
        graded = is_graded(page)
        top = int(np.sort(height)[-RARE - 1]) if len(height) > RARE else 0  # a few outliers do not move it
        cap = np.maximum(largest - FAR_LOSS * (height < top - NEAR), 0)
        cap[graded] = self.graded_cap
        spare = cap - np.ceil(np.log2(n)).astype(np.int64)  # log2 of the bins that each chunk may have
        dense = ((n > SPARSE_CHUNKS) | (spare < 0)) & ~graded
        shift = np.where(dense, PAGE_BITS - cap, np.clip(CHUNK_BITS - spare, 0, CHUNK_BITS))
        page += row * PAGES
        base = self.base_P[page]
        change = (base == ABSENT) | (dense != (base >= 0)) | (shift != self.shift_P[page])
        return page[change], shift[change], dense[change]

    def _cost(self, cap: int, page: Int, chunks: Int, height: Int) -> int:
        """Bins that a row may need with ``cap``: the most that any part of its data could need.

        A part of the data may have a lower top. Then fewer pages are far, and it could need more bins than all the
        data. Looking at every octave as if it were the top keeps caps from depending on the order. Above the top
        there are at most `RARE` pages.
        """
        graded = is_graded(page)
        full = chunks[~graded] << CHUNK_BITS
        near, far = (np.minimum(1 << each, full) for each in (cap, max(0, cap - FAR_LOSS)))
        near_O, far_O = (np.bincount(height[~graded], each, minlength=OCTAVES) for each in (near, far))
        upto_O = np.cumsum(near_O)
        below_O = np.concatenate([np.zeros(NEAR + 1), (upto_O - np.cumsum(far_O))[: -NEAR - 1]])  # what far pages save
        above_O = np.minimum(upto_O[-1] - upto_O, RARE << cap)
        widest = (upto_O - below_O + above_O).max()
        most = (1 << self.graded_cap) + GRADES * max(1, self.bins >> 14)
        return int(widest + np.minimum(chunks[graded] << CHUNK_BITS, most).sum())

    def _rearrange(self, page: Int, shift: Int, dense: npt.NDArray[np.bool_], code: Int) -> Move:
        """Gives pages their new bins, and new chunks theirs."""
        old = self.base_P[page]
        moved = page[old != ABSENT]
        row_K, bits_K, source_K, _ = self._blocks(moved).bins() if len(moved) else (NONE, NONE, NONE, NONE)
        if len(moved):
            code = np.concatenate([code, self._release(moved)])
        self.shift_P[page] = shift
        self._chunks_P[page[dense]] = CHUNKS
        self.base_P[page[dense]] = self._take(PAGE_BITS - shift[dense])
        wanted = int((~dense).sum())
        if wanted > len(self._free_nodes):
            more = max(wanted, len(self.node_NC))  # at least twice as many, so that copying stays rare
            self._free_nodes += range(len(self.node_NC), len(self.node_NC) + more)
            self.node_NC = np.concatenate([self.node_NC, np.full((more, CHUNKS), ABSENT, dtype=np.int32)])
        self.base_P[page[~dense]] = -2 - np.array(self._free_nodes[:wanted], dtype=np.int64)
        del self._free_nodes[:wanted]
        base = self.base_P[code >> 12].astype(np.int64)
        code, base = code[base < ABSENT], base[base < ABSENT]
        page, chunk = code >> 12, code & (CHUNKS - 1)
        distance = np.maximum(CHUNKS - 1 - chunk, 0.5)  # from 1 or -1, in chunks
        steps = np.log2(distance / max(1, self.bins >> 14))
        grade = np.clip(np.floor(steps) + 1, 0, CHUNK_BITS).astype(np.int64)
        shifts = self.shift_P[page].astype(np.int64)  # bits that the bins of these chunks do not resolve
        shifts = np.where(is_graded(page % PAGES), np.minimum(grade, shifts), shifts)
        self.node_NC[-2 - base, chunk] = self._take(CHUNK_BITS - shifts) << SHIFT_BITS | shifts
        return Move(source_K, self.place(row_K, bits_K)) if len(moved) else STAY

    def _release(self, page: Int) -> Int:
        """Gives back the places and nodes of pages; the chunks that the sparse ones had."""
        blocks = self._blocks(page)
        for length in np.unique(blocks.length_L):
            self._give_back(int(length).bit_length() - 1, blocks.place_L[blocks.length_L == length])
        sparse = page[self.base_P[page] < ABSENT]
        node = -2 - self.base_P[sparse].astype(np.int64)
        found = np.flatnonzero(self.node_NC[node] != ABSENT)
        self.node_NC[node] = ABSENT
        self._free_nodes += node.tolist()
        code: Int = (sparse[found >> 12] << 12) + (found & (CHUNKS - 1))
        return code

    def _blocks(self, page: Int, rows: Int | None = None) -> Blocks:
        """The bins of pages (ascending), of some rows only."""
        if rows is not None:
            page = page[np.isin(page // PAGES, rows)]
        base = self.base_P[page].astype(np.int64)
        found = np.flatnonzero(self.node_NC[-2 - base[base < ABSENT]] != ABSENT)
        at, chunk = found >> 12, found & (CHUNKS - 1)
        sparse_page, node = page[base < ABSENT][at], -2 - base[base < ABSENT][at]
        dense_page = page[base >= 0]
        pages = np.concatenate([dense_page, sparse_page])
        within = np.concatenate([np.zeros_like(dense_page), chunk << CHUNK_BITS])
        entry = self.node_NC[node, chunk].astype(np.int64)
        shift = np.concatenate([self.shift_P[dense_page].astype(np.int64), entry & SHIFT_MASK])
        log = np.where(np.arange(len(pages)) < len(dense_page), PAGE_BITS, CHUNK_BITS) - shift
        place = np.concatenate([base[base >= 0], entry >> SHIFT_BITS])
        row, bits = pages // PAGES, (pages % PAGES << PAGE_BITS) + within
        order = np.lexsort((bits, row))
        return Blocks(*(each[order] for each in (row, bits, place, shift, 1 << log)))

    def _take(self, log_L: Int) -> Int:
        """Places of free blocks of 2^log bins each."""
        place_L = np.zeros(len(log_L), np.int64)
        for log in np.unique(log_L):
            mine = log_L == log
            place_L[mine] = self._take_equal(int(log), int(mine.sum()))
        return place_L

    def _take_equal(self, log: int, count: int) -> Int:
        """As many blocks of 2^log bins: free ones of that size, parts of larger ones, then new ones."""
        found = [NONE]
        missing = count
        for level in range(log, PAGE_BITS + 1):
            if missing == 0 or len(self._free[level]) == 0:
                continue
            parts = 1 << (level - log)
            taken, self._free[level] = np.split(self._free[level], [min(len(self._free[level]), -(-missing // parts))])
            found.append((taken[:, None] + (np.arange(parts) << log)).ravel())
            missing = max(0, missing - len(found[-1]))
        found.append(self.size + (np.arange(missing) << log))
        self.size += missing << log
        places = np.concatenate(found)
        self._give_back(log, places[count:])
        return places[:count]

    def _give_back(self, log: int, place_L: Int) -> None:
        self._free[log] = np.concatenate([self._free[log], place_L])


def is_graded(page: Int) -> npt.NDArray[np.bool_]:
    """Whether a page (0..4095) has a resolution of its own; see the module."""
    graded: npt.NDArray[np.bool_] = (page & (PAGES // 2 - 1)) == BELOW_ONE
    return graded


def _page(row_N: Int, bits_N: Int) -> Int:
    """Index of a score's page among those of all rows."""
    return row_N * PAGES + (bits_N >> PAGE_BITS)


def _chunk(bits_N: Int) -> Int:
    """Index of a score's chunk in its page."""
    return (bits_N >> CHUNK_BITS) & (CHUNKS - 1)
