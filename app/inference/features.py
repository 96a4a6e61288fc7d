"""Features that were already computed, on disk and shared by every process of a machine.

A space (encoder and revision, the graft included) is a folder of immutable shards. A shard is written whole under a
temporary name and renamed, so several processes may write at once. Each row carries a checksum: a damaged one is
encoded again.

    shard:  b"MGF1"  uint32 N  uint32 F  uint32 0  |  N digests of 32 bytes  |  N uint32 crc32  |  N x F float32
"""

import os
import re
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

log = structlog.get_logger(__name__)

Matrix = NDArray[np.float32]
#: Encodes the rows at these positions; the callback receives the number of rows done.
Encode = Callable[[list[int], Callable[[int], None]], Matrix]

CHUNK_ROWS = 1024
_SUFFIX = ".features"
_MAGIC = b"MGF1"
_HEADER = struct.Struct("<4sIII")
_DIGEST = 32
_MAX_SMALL_SHARDS = 64
_SMALL_BYTES = 2**20
_ORPHAN_SECONDS = 3600


@dataclass(frozen=True, eq=False)
class _Shard:
    """The parts of one shard file, memory-mapped."""

    digests: list[bytes]
    crc_N: NDArray[np.uint32]
    matrix_NF: Matrix

    def is_sound(self, row: int) -> bool:
        return zlib.crc32(self.matrix_NF[row].tobytes()) == int(self.crc_N[row])


def _read(path: Path) -> _Shard | None:
    """The shard, or None where the file is gone, torn or something else."""
    try:
        data = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError):
        return None
    if len(data) < _HEADER.size:
        return None
    magic, rows, width, _ = _HEADER.unpack(data[: _HEADER.size].tobytes())
    after_digests = _HEADER.size + rows * _DIGEST
    after_crc = after_digests + rows * 4
    if magic != _MAGIC or len(data) != after_crc + rows * width * 4:
        return None
    flat = data[_HEADER.size : after_digests].tobytes()
    return _Shard(
        [flat[i : i + _DIGEST] for i in range(0, len(flat), _DIGEST)],
        data[after_digests:after_crc].view(np.uint32),
        data[after_crc:].view(np.float32).reshape(rows, width),
    )


def _write(folder: Path, digests: Sequence[bytes], matrix_NF: Matrix) -> Path:
    """A new shard in `folder`. It is a cache, so it is not synced: the checks of `_read` catch a torn file."""
    folder.mkdir(parents=True, exist_ok=True)
    crc = np.array([zlib.crc32(row.tobytes()) for row in matrix_NF], dtype=np.uint32)
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".incoming-")
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_HEADER.pack(_MAGIC, *matrix_NF.shape, 0))
            file.write(b"".join(digests) + crc.tobytes())
            file.write(np.ascontiguousarray(matrix_NF, dtype="<f4").tobytes())
        final = folder / (path.name.removeprefix(".incoming-") + _SUFFIX)
        path.replace(final)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return final


@dataclass
class _Space:
    """What this process knows of one folder: in which shard and row a digest stands."""

    folder: Path
    places: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    shards: set[str] = field(default_factory=set)

    def refresh(self) -> None:
        """Reads the shards that appeared and forgets those that went."""
        present = {path.name for path in self.folder.glob(f"*{_SUFFIX}")}
        if self.shards - present:
            self.places = {digest: place for digest, place in self.places.items() if place[0] in present}
        for name in sorted(present - self.shards, key=lambda name: _age(self.folder / name)):
            shard = _read(self.folder / name)
            if shard is not None:
                self.places.update((digest, (name, row)) for row, digest in enumerate(shard.digests))
        self.shards = present

    def rows(self, digests: Sequence[bytes]) -> Iterator[tuple[int, Matrix]]:
        """(position in `digests`, its features) for each that is stored and sound."""
        by_shard: dict[str, list[tuple[int, int]]] = {}
        for position, digest in enumerate(digests):
            if digest in self.places:
                name, row = self.places[digest]
                by_shard.setdefault(name, []).append((position, row))
        for name, wanted in by_shard.items():
            shard = _read(self.folder / name)  # opened per call: thousands of open maps would use up file descriptors
            if shard is None:
                continue
            for position, row in wanted:
                if row < len(shard.digests) and shard.digests[row] == digests[position] and shard.is_sound(row):
                    yield position, shard.matrix_NF[row].copy()


class FeatureCache:
    """The spaces under one folder, at most `max_bytes` together: the oldest shards go first."""

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self._spaces: dict[str, _Space] = {}
        self._lock = threading.Lock()

    @staticmethod
    def space(encoder: str, revision: str) -> str:
        """The folder name of an encoder at a revision, which names its graft if it wears one."""
        return "-".join(re.sub(r"[^A-Za-z0-9._]", "_", part)[:80] for part in (encoder, revision))

    def lookup(self, space: str, keys: Sequence[str]) -> dict[int, Matrix]:
        """Position in `keys` (sha256, 64 hex digits) to features, of those that are stored."""
        digests = [bytes.fromhex(key) for key in keys]
        with self._lock:
            known = self._spaces.setdefault(space, _Space(self.root / space))
            found = dict(known.rows(digests))
            if len(found) < len(digests):
                known.refresh()
                found = dict(known.rows(digests))
            self.hits += len(found)
            self.misses += len(digests) - len(found)
        return found

    def get_or_encode(
        self,
        space: str,
        keys: Sequence[str],
        encode: Encode,
        progress: Callable[[int, int], None],
    ) -> Matrix:
        """(N, F): the features of every key, in order. Only what is missing is encoded, each distinct key once.

        `progress` receives (rows encoded, rows to encode). What is encoded is stored for the next time, chunk by chunk,
        so that an interruption loses little.
        """
        found = self.lookup(space, keys)
        first_of: dict[str, int] = {}
        for position, key in enumerate(keys):
            if position not in found:
                first_of.setdefault(key, position)
        missing = list(first_of.values())
        fresh: dict[str, Matrix] = {}
        for start in range(0, len(missing), CHUNK_ROWS):
            chunk = missing[start : start + CHUNK_ROWS]

            def report(done: int, start: int = start) -> None:
                progress(start + done, len(missing))

            matrix_NF = encode(chunk, report)
            fresh.update((keys[position], row) for position, row in zip(chunk, matrix_NF, strict=True))
            self.store(space, [keys[position] for position in chunk], matrix_NF)
        rows = [found[i] if i in found else fresh[key] for i, key in enumerate(keys)]
        return np.stack(rows) if rows else np.zeros((0, 0), dtype=np.float32)

    def store(self, space: str, keys: Sequence[str], matrix_NF: Matrix) -> None:
        """Keeps the features for every process. A full or read-only disk costs speed, never the caller's work."""
        try:
            _write(self.root / space, [bytes.fromhex(key) for key in keys], matrix_NF)
            self._merge_small(self.root / space)
            self._drop_oldest()
        except OSError as error:
            log.warning("features_not_cached", reason=str(error))

    def _merge_small(self, folder: Path) -> None:
        """Joins small shards, so that a thousand small jobs do not leave a thousand files."""
        small = [path for path in folder.glob(f"*{_SUFFIX}") if _size(path) < _SMALL_BYTES]
        if len(small) <= _MAX_SMALL_SHARDS:
            return
        shards = [shard for path in small if (shard := _read(path)) is not None]
        rows = {
            digest: shard.matrix_NF[row]
            for shard in shards
            for row, digest in enumerate(shard.digests)
            if shard.is_sound(row)
        }
        if rows:
            _write(folder, list(rows), np.stack(list(rows.values())))
        for path in small:
            path.unlink(missing_ok=True)

    def _drop_oldest(self) -> None:
        shards = sorted(self.root.glob(f"*/*{_SUFFIX}"), key=_age)
        total = sum(map(_size, shards))
        for orphan in self.root.glob("*/.incoming-*"):
            if time.time() - _age(orphan) > _ORPHAN_SECONDS:
                orphan.unlink(missing_ok=True)
        for path in shards:
            if total <= self.max_bytes:
                return
            total -= _size(path)
            path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    """Bytes; 0 where another process has just removed the file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
