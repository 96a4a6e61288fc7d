"""Features of inputs that were asked about before, in memory: an input that comes again is not encoded again."""

import threading
from collections import OrderedDict

from torch import Tensor

#: What a row costs beside its numbers: a tensor, a key, a place in the order.
_OVERHEAD_BYTES = 600

#: Encoder with its revision, digest of the graft ("": none), content key of the input.
Key = tuple[str, str, str]


class RecentFeatures:
    """The features asked for last, at most `max_bytes` of them. Safe for threads."""

    def __init__(self, *, max_bytes: int) -> None:
        self.hits = 0
        self.misses = 0
        self._max_bytes = max_bytes
        self._bytes = 0
        self._rows: OrderedDict[Key, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Tensor | None:
        """(F,) or None."""
        with self._lock:
            if (row := self._rows.get(key)) is None:
                self.misses += 1
                return None
            self.hits += 1
            self._rows.move_to_end(key)
            return row

    def put(self, key: Key, row_F: Tensor) -> None:
        """Keeps a row that has a storage of its own."""
        with self._lock:
            if key in self._rows:
                return
            self._rows[key] = row_F
            self._bytes += _bytes(row_F)
            while self._bytes > self._max_bytes:
                self._bytes -= _bytes(self._rows.popitem(last=False)[1])


def _bytes(row_F: Tensor) -> int:
    return row_F.nbytes + _OVERHEAD_BYTES
