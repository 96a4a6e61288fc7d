"""A multipart upload streamed to a folder of its own, which is gone when the request ends, however it ends."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from app.datasets.schemas import UploadForm
from app.dependencies import ServicesDep
from app.errors import ErrorItem, InvalidInput, UnsupportedMedia, items_from_validation
from app.security import Principal, require

_MAX_PARTS = 10_010
_MAX_FIELD_BYTES = 2**20
_WRITE_BYTES = 2**20
_LIST_FIELDS = frozenset({"input_columns"})


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What was sent: the form, and the file at `path`. `folder` is scratch space."""

    form: UploadForm
    path: Path
    filename: str
    folder: Path


def _bad_form(code: str, message: str, pointer: str | None = None) -> InvalidInput:
    return InvalidInput(message, code=code, errors=[ErrorItem(pointer=pointer, code=code, message=message)])


@dataclass
class _Form:
    """Takes the parser's events: fields into memory, within bounds, and the file's bytes into `unwritten`."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    filename: str | None = None
    unwritten: bytearray = field(default_factory=bytearray)
    is_complete: bool = False
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _header_name: bytes = b""
    _header_value: bytes = b""
    _name: str = ""
    _is_file: bool = False
    _value: bytearray = field(default_factory=bytearray)
    _n_parts: int = 0
    _n_bytes: int = 0

    def callbacks(self) -> dict[str, Any]:
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end",
                 "headers_finished", "end")  # fmt: skip
        return {f"on_{name}": getattr(self, f"_on_{name}") for name in names}

    def _on_part_begin(self) -> None:
        self._n_parts += 1
        if self._n_parts > _MAX_PARTS:
            raise _bad_form("too_many_fields", f"The form has more than {_MAX_PARTS} parts.")
        self._headers, self._value = {}, bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b"").decode("latin-1"))
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._is_file = self._name == "file"
        if not self._is_file:
            return
        if self.filename is not None:
            raise _bad_form("too_many_files", "Send one file.", "/file")
        self.filename = options.get(b"filename", b"").decode(errors="replace")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.unwritten += data[start:end]
            return
        self._n_bytes += end - start
        if self._n_bytes > _MAX_FIELD_BYTES:
            raise _bad_form("field_too_large", "The fields beside the file are too large.", f"/{self._name[:100]}")
        self._value += data[start:end]

    def _on_part_end(self) -> None:
        if self._is_file:
            return
        try:
            self.fields.setdefault(self._name, []).append(self._value.decode())
        except UnicodeDecodeError:
            raise _bad_form("wrong_encoding", "The field is not UTF-8.", f"/{self._name[:100]}") from None

    def _on_end(self) -> None:
        self.is_complete = True

    def validated(self) -> UploadForm:
        """The fields as a form. A blank optional field counts as left out, as browsers send it."""
        values: dict[str, Any] = {}
        for name, given in self.fields.items():
            kept = given if name == "name" else [value for value in given if value.strip()]
            if len(kept) > 1 and name not in _LIST_FIELDS:
                raise _bad_form("repeated_field", "The field occurs more than once.", f"/{name[:100]}")
            if kept:
                values[name] = kept if name in _LIST_FIELDS else kept[0]
        try:
            return UploadForm.model_validate(values)
        except ValidationError as error:
            items = items_from_validation(error)
            message = f"{len(items)} problem(s) with the form: {items[0].pointer} {items[0].message}"
            raise InvalidInput(message, errors=items) from error


def _parser(request: Request, form: _Form) -> MultipartParser:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise UnsupportedMedia("Send the dataset as multipart/form-data with the fields file and name.")
    try:
        return MultipartParser(options.get(b"boundary", b""), form.callbacks())  # type: ignore[arg-type]
    except FormParserError as error:
        raise _bad_form("malformed_multipart", f"The form cannot be read: {error}") from error


async def _stream(request: Request, form: _Form, file: BinaryIO) -> None:
    parser = _parser(request, form)
    try:
        async for chunk in request.stream():
            parser.write(chunk)
            if len(form.unwritten) >= _WRITE_BYTES:
                await run_in_threadpool(file.write, form.unwritten)
                form.unwritten = bytearray()
        parser.finalize()
    except FormParserError as error:
        raise _bad_form("malformed_multipart", f"The form cannot be read: {error}") from error
    except ClientDisconnect:
        raise _bad_form("upload_broken_off", "The upload broke off.") from None
    await run_in_threadpool(file.write, form.unwritten)
    if not form.is_complete:
        raise _bad_form("malformed_multipart", "The form ends before its last boundary.")


def _make_folder(data_dir: Path) -> Path:
    parent = data_dir / "tmp"
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=parent, prefix="upload-"))


async def receive_upload(
    request: Request, services: ServicesDep, _principal: Annotated[Principal, Depends(require("datasets"))]
) -> AsyncIterator[Upload]:
    """The upload of the request, received only once its sender is known to be allowed to send it."""
    folder = await run_in_threadpool(_make_folder, services.settings.data_dir)
    try:
        form = _Form()
        path = folder / "upload"
        with path.open("wb") as file:
            await _stream(request, form, file)
        if form.filename is None:
            raise _bad_form("missing", "The field file is missing.", "/file")
        yield Upload(form=form.validated(), path=path, filename=form.filename, folder=folder)
    finally:
        await run_in_threadpool(shutil.rmtree, folder, ignore_errors=True)


UploadDep = Annotated[Upload, Depends(receive_upload, scope="function")]


def openapi_body() -> dict[str, Any]:
    """The request body for the API's description; FastAPI does not see it, because it is not parsed by FastAPI."""
    schema = UploadForm.model_json_schema()
    schema["properties"] = {"file": {"type": "string", "format": "binary"}, **schema["properties"]}
    schema["required"] = ["file", *schema["required"]]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
