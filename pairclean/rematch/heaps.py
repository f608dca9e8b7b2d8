"""The largest entries of every row of a matrix that is seen in blocks (FAISS's heaps)."""

from __future__ import annotations

from typing import Any

import numpy as np


class Best:
    """The k largest of every row of an (n, m) matrix; fewer where fewer were seen."""

    def __init__(self, n: int, k: int):
        import faiss

        self.value, self.column = np.empty((n, k), np.float32), np.empty((n, k), np.int64)
        self.pointer = faiss.swig_ptr
        self.heaps: Any = faiss.float_minheap_array_t()
        self.heaps.nh, self.heaps.k = n, k
        self.heaps.val, self.heaps.ids = self.pointer(self.value), self.pointer(self.column)
        self.heaps.heapify()

    def add(self, block: np.ndarray, row: int, column: int) -> None:
        """block: float32, contiguous, whose first entry is at this row and column."""
        self.heaps.addn(block.shape[1], self.pointer(block), column, row, len(block))

    def add_rows(self, block: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
        """block: (r, c) float32, contiguous, of these rows and columns, (r,) and (c,) int64."""
        self.heaps.addn_query_subset_with_ids(
            len(rows), self.pointer(rows), len(columns), self.pointer(block), self.pointer(columns), 0
        )

    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """(n, k) values, descending, and their columns, -1 where there are fewer."""
        self.heaps.reorder()
        return self.value, self.column
