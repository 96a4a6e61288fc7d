"""Where a backup lies: a folder, or a tar file where the name ends in `.tar`. Whole or absent, whatever happens."""

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol

from app.backups.errors import BackupError

_CHUNK = 2**20


class Sink(Protocol):
    """Takes the entries of a new backup, by name."""

    def add(self, name: str, data: IO[bytes], size: int) -> None: ...


class Source(Protocol):
    """Gives the entries of a backup back."""

    def open(self, name: str) -> IO[bytes]:
        """Raises `BackupError` where there is no such entry."""
        ...


class _FolderSink:
    def __init__(self, root: Path) -> None:
        self._root = root

    def add(self, name: str, data: IO[bytes], size: int) -> None:  # noqa: ARG002 - a file knows its size
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            shutil.copyfileobj(data, file, _CHUNK)
            file.flush()
            os.fsync(file.fileno())


class _TarSink:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def add(self, name: str, data: IO[bytes], size: int) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o600
        self._tar.addfile(entry, data)


class _FolderSource:
    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, name: str) -> IO[bytes]:
        try:
            return (self._root / name).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise _missing(name) from None


class _TarSource:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def open(self, name: str) -> IO[bytes]:
        try:
            found = self._tar.extractfile(name)
        except KeyError:
            found = None
        if found is None:
            raise _missing(name)
        return found


def _missing(name: str) -> BackupError:
    return BackupError(f"the backup lacks {name}; use another backup")


@contextmanager
def new_container(target: Path) -> Iterator[Sink]:
    """What is added appears at `target` once the block has ended well; otherwise nothing is left.

    Raises:
        BackupError: there is something at `target` already.
    """
    if target.exists() or target.is_symlink():
        raise BackupError(f"{target} exists; choose a new name")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".backup-", ignore_cleanup_errors=True) as scratch:
        partial = Path(scratch) / target.name
        if target.suffix == ".tar":
            partial.touch(mode=0o600)
            with partial.open("wb") as file:
                with tarfile.open(fileobj=file, mode="w") as tar:
                    yield _TarSink(tar)
                file.flush()
                os.fsync(file.fileno())
        else:
            partial.mkdir(mode=0o700)
            yield _FolderSink(partial)
        partial.rename(target)
    with suppress(OSError):  # not every file system can
        _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def open_container(source: Path) -> Iterator[Source]:
    """Raises `BackupError` where there is no backup at `source`."""
    if source.is_dir():
        yield _FolderSource(source)
        return
    if not source.is_file():
        raise BackupError(f"there is no backup at {source}")
    try:
        with tarfile.open(source, mode="r:") as tar:
            yield _TarSource(tar)
    except tarfile.TarError as error:
        raise BackupError(f"{source} is no whole tar file ({error}); use another backup") from None


def add_bytes(sink: Sink, name: str, data: bytes) -> None:
    sink.add(name, io.BytesIO(data), len(data))


def add_file(sink: Sink, name: str, path: Path) -> None:
    with path.open("rb") as file:
        sink.add(name, file, path.stat().st_size)
