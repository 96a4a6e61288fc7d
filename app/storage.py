"""Content-addressed storage: a blob's name is the sha256 of its bytes, in a folder or in an S3-compatible bucket."""

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import obstore
import structlog
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from app.errors import NotFound, Unavailable
from app.settings import Settings

CHUNK = 2**20
_INCOMING = ".incoming-"
_NAME = re.compile(r"[0-9a-f]{64}")

log = structlog.get_logger(__name__)


class Storage(Protocol):
    """Where blobs live. Every method takes or gives the sha256 (64 hex digits) that names a blob."""

    def put_file(self, path: Path) -> str:
        """Stores a copy of the file durably; storing the same bytes again changes nothing."""
        ...

    def put_bytes(self, data: bytes) -> str: ...

    def fetch(self, sha256: str) -> Path:
        """A local file with the blob's bytes, verified. Raises `NotFound`; the caller must not change the file."""
        ...

    def read(self, sha256: str) -> bytes:
        """The blob's bytes, verified."""
        ...

    def exists(self, sha256: str) -> bool: ...

    def delete(self, sha256: str) -> None:
        """Removes the blob; nothing happens where it is already gone."""
        ...

    def blobs(self) -> Iterator[tuple[str, int]]:
        """The name and the bytes of every blob, in no order. Whatever else lies there is passed over."""
        ...

    def discard_partial(self, older_than: float) -> int:
        """Removes what writers that died left half written more than so many seconds ago; its bytes."""
        ...

    def check(self) -> None:
        """Raises `Unavailable` where the storage cannot be reached."""
        ...


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def write_durably(path: Path, chunks: Iterator[bytes]) -> None:
    """Temp file, fsync, rename, fsync of the folder: after a crash the file is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_INCOMING)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _verified(path: Path, sha256: str) -> Path:
    if sha256_of(path) != sha256:
        raise _damaged(sha256)
    return path


def _verified_bytes(path: Path, sha256: str) -> bytes:
    """The very bytes that were checked: a file can change after it was looked at."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise _damaged(sha256)
    return data


def _damaged(sha256: str) -> Unavailable:
    return Unavailable(f"Stored blob {sha256[:12]}… is damaged; restore it from a backup.", code="blob_damaged")


class FolderStorage:
    """Blobs as files under `root/ab/abcd…`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def _path(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256

    def _put(self, sha256: str, chunks: Iterator[bytes]) -> str:
        path = self._path(sha256)
        # A damaged blob is replaced: its name says what it should be.
        if not path.exists() or sha256_of(path) != sha256:
            write_durably(path, chunks)
        return sha256

    def put_file(self, path: Path) -> str:
        return self._put(sha256_of(path), _chunks(path))

    def put_bytes(self, data: bytes) -> str:
        return self._put(hashlib.sha256(data).hexdigest(), iter([data]))

    def fetch(self, sha256: str) -> Path:
        try:
            return _verified(self._path(sha256), sha256)
        except FileNotFoundError:
            raise NotFound(f"There is no blob {sha256[:12]}…") from None

    def read(self, sha256: str) -> bytes:
        try:
            return _verified_bytes(self._path(sha256), sha256)
        except FileNotFoundError:
            raise NotFound(f"There is no blob {sha256[:12]}…") from None

    def exists(self, sha256: str) -> bool:
        return self._path(sha256).exists()

    def delete(self, sha256: str) -> None:
        self._path(sha256).unlink(missing_ok=True)

    def blobs(self) -> Iterator[tuple[str, int]]:
        for path in self.root.glob("??/*"):
            if _NAME.fullmatch(path.name) and path.name.startswith(path.parent.name):
                with suppress(FileNotFoundError):  # it was deleted meanwhile
                    yield path.name, path.stat().st_size

    def discard_partial(self, older_than: float) -> int:
        freed = 0
        for path in self.root.glob(f"??/{_INCOMING}*"):
            with suppress(FileNotFoundError):
                found = path.stat()
                if time.time() - found.st_mtime >= older_than:
                    path.unlink()
                    freed += found.st_size
        return freed

    def check(self) -> None:
        if not os.access(self.root, os.W_OK):
            raise Unavailable("The storage folder is not writable.")


class S3Storage:
    """Blobs as objects `prefix/ab/abcd…`; a local cache folder holds what was fetched."""

    def __init__(self, store: S3Store, cache: Path) -> None:
        self.store = store
        self.cache = cache

    @staticmethod
    def _key(sha256: str) -> str:
        return f"{sha256[:2]}/{sha256}"

    def put_file(self, path: Path) -> str:
        sha256 = sha256_of(path)
        with _reachable():
            obstore.put(self.store, self._key(sha256), path)
        return sha256

    def put_bytes(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        with _reachable():
            obstore.put(self.store, self._key(sha256), data)
        return sha256

    def fetch(self, sha256: str) -> Path:
        path = self.cache / sha256[:2] / sha256
        if path.exists() and sha256_of(path) == sha256:
            return path
        try:
            with _reachable():
                body = obstore.get(self.store, self._key(sha256)).stream(min_chunk_size=CHUNK)
                write_durably(path, (bytes(chunk) for chunk in body))
        except FileNotFoundError:
            raise NotFound(f"There is no blob {sha256[:12]}…") from None
        try:
            return _verified(path, sha256)
        except Unavailable:
            path.unlink(missing_ok=True)  # a damaged copy must not outlive this call
            raise

    def read(self, sha256: str) -> bytes:
        return _verified_bytes(self.fetch(sha256), sha256)

    def exists(self, sha256: str) -> bool:
        try:
            with _reachable():
                obstore.head(self.store, self._key(sha256))
        except FileNotFoundError:
            return False
        return True

    def delete(self, sha256: str) -> None:
        with _reachable():
            obstore.delete(self.store, self._key(sha256))
        (self.cache / sha256[:2] / sha256).unlink(missing_ok=True)

    def blobs(self) -> Iterator[tuple[str, int]]:
        with _reachable():
            for batch in obstore.list(self.store):
                for found in batch:
                    folder, _, name = str(found["path"]).removeprefix(f"{self.store.prefix}/").partition("/")
                    if _NAME.fullmatch(name) and name.startswith(folder):
                        yield name, int(found["size"])

    def discard_partial(self, older_than: float) -> int:  # noqa: ARG002 - an object appears whole or not at all
        return 0

    def check(self) -> None:
        with _reachable():
            obstore.list_with_delimiter(self.store, "00")


@contextmanager
def _reachable() -> Iterator[None]:
    """Turns the errors of the object store into `Unavailable`; an absent object stays a `FileNotFoundError`."""
    try:
        yield
    except FileNotFoundError:
        raise
    except NotFoundError as error:
        raise FileNotFoundError(str(error)) from error
    except (BaseError, OSError) as error:
        log.warning("object_store_failed", reason=str(error).partition("\n")[0])
        raise Unavailable("The object store cannot be reached.", code="storage_unavailable") from error


def make_storage(settings: Settings) -> Storage:
    """Storage for `settings.storage_url`: a folder, `file://…` or `s3://bucket/prefix`."""
    url = settings.resolved_storage_url
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return S3Storage(_s3_store(settings, parts.netloc, parts.path.strip("/")), settings.cache_dir / "blobs")
    return FolderStorage(Path(parts.path if parts.scheme == "file" else url))


def _s3_store(settings: Settings, bucket: str, prefix: str) -> S3Store:
    config: dict[str, str] = {"region": settings.s3_region}
    if settings.s3_endpoint:
        config["endpoint"] = settings.s3_endpoint
        # Self-hosted stores rarely have a wildcard host name per bucket.
        config["virtual_hosted_style_request"] = "false"
    if settings.s3_access_key_id:
        config["access_key_id"] = settings.s3_access_key_id
        config["secret_access_key"] = settings.s3_secret_access_key
    options = {"allow_http": settings.s3_endpoint.startswith("http://")}
    # A request waits for these retries, so they must end before its client gives up.
    retries: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=15)}
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,  # type: ignore[arg-type]
        client_options=options,  # type: ignore[arg-type]
        retry_config=retries,
    )
