"""How an artifact is written and read: one sealed safetensors file with a JSON header. Never pickle.

Loading reads numbers and JSON only, so an artifact from an untrusted place can be wrong but cannot run anything, and
takes no more memory than its bytes account for.

The header holds `format_version`, `kind` and `seal`. The seal is the sha256 of the whole file, written into its own
place in it (for the digest, that place holds zeros): tensors, header and layout cannot change unnoticed. It protects
from accidents, not from somebody who writes a new seal.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from learning.errors import InvalidArtifact, LearningError, NonFiniteModel

FORMAT_VERSION = 3
#: Artifacts of this version were written before there were seals. They are read without one.
UNSEALED_VERSION = 2
#: What safetensors itself allows.
MAX_HEADER_BYTES = 100_000_000

_HEADER = "metagraft"
_OPEN = '"seal": "'
#: How the beginning of the seal looks in the file, where the header is a JSON string within JSON.
_OPENED = json.dumps(_OPEN)[1:-1].encode()
_BLANK = "0" * 64
_SEAL = re.compile(r"[0-9a-f]{64}")
_RESERVED = ("format_version", "kind", "seal")
#: What reading trips over where bytes are not what they should be: a list for a number, a shape that does not fit, ...
_MISREADINGS = (
    ArithmeticError, AssertionError, AttributeError, LearningError, LookupError, RuntimeError, SafetensorError,
    TypeError, ValueError,
)  # fmt: skip


def seal(kind: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    """The artifact's bytes; equal contents give equal bytes.

    Raises:
        NonFiniteModel: a number is not finite. Such a model is never stored.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteModel(f"the fitted model is not finite ({name})", hint="check the inputs for extreme values")
    reserved = {"format_version": FORMAT_VERSION, "kind": kind, "seal": _BLANK}
    try:
        text = json.dumps(dict(header) | reserved, sort_keys=True, allow_nan=False)
    except ValueError as error:
        raise NonFiniteModel("the fitted model is not finite", hint="check the inputs for extreme values") from error
    blank = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={_HEADER: text})
    place = _OPENED + _BLANK.encode()
    if blank.count(place, 0, 8 + _header_length(blank)) != 1:
        raise InvalidArtifact("a name in the header looks like the artifact's own seal", hint="rename the columns")
    start = blank.index(place) + len(_OPENED)
    return blank[:start] + hashlib.sha256(blank).hexdigest().encode() + blank[start + len(_BLANK) :]


def unseal(data: bytes, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header, without `format_version`, `kind` and `seal`, of an artifact of this kind.

    Raises:
        InvalidArtifact: these bytes are anything else, are damaged, or hold numbers that are not finite.
    """
    header = read_header(data)
    _check_seal(data, header)
    if header["kind"] != kind:
        raise InvalidArtifact(f"this artifact is a {header['kind']!r:.40}, not a {kind}")
    with readable("safetensors file"):
        tensors = load(data)
        finite = all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values() if tensor.is_floating_point())
    if not finite:
        raise InvalidArtifact("the artifact holds non-finite numbers")
    return tensors, {name: value for name, value in header.items() if name not in _RESERVED}


def read_header(data: bytes) -> dict[str, Any]:
    """The JSON header of an artifact, without its tensors and unchecked. Raises `InvalidArtifact`."""
    with readable("Metagraft artifact"):
        text = json.loads(data[8 : 8 + _header_length(data)])["__metadata__"][_HEADER]
        header: dict[str, Any] = dict(json.loads(text, parse_constant=_refuse).items())
        version, kind = header.get("format_version"), header.get("kind")
        if version not in {UNSEALED_VERSION, FORMAT_VERSION}:
            raise InvalidArtifact(
                f"artifact format {version!r:.40} is not known to this version",
                hint="install the version of Metagraft that wrote it, or adapt the model again",
            )
    if not isinstance(kind, str):
        raise InvalidArtifact("the artifact does not say what it is")
    return header


def is_sealed(data: bytes) -> bool:
    """Whether the artifact is of a format with a seal. Raises `InvalidArtifact`."""
    return bool(read_header(data)["format_version"] != UNSEALED_VERSION)


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Whatever reading untrusted bytes trips over becomes `InvalidArtifact`."""
    try:
        yield
    except InvalidArtifact:
        raise
    except _MISREADINGS as error:
        raise InvalidArtifact(f"these bytes are no whole {what}") from error


def _header_length(data: bytes) -> int:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, MAX_HEADER_BYTES):
        raise InvalidArtifact("the artifact is shorter than it says")
    return length


def _refuse(constant: str) -> float:
    raise ValueError(constant)


def _check_seal(data: bytes, header: Mapping[str, Any]) -> None:
    found = header.get("seal")
    if header["format_version"] == UNSEALED_VERSION:
        if found is not None:
            raise InvalidArtifact("the artifact is damaged: it has a seal, and a format without one")
        return
    if not isinstance(found, str) or not _SEAL.fullmatch(found):
        raise InvalidArtifact("the artifact has no seal")
    start = data.find(_OPENED + found.encode(), 8, 8 + _header_length(data)) + len(_OPENED)
    if start < 8 + len(_OPENED):
        raise InvalidArtifact("the artifact has no seal")
    view, digest = memoryview(data), hashlib.sha256()
    for part in (view[:start], _BLANK.encode(), view[start + len(_BLANK) :]):
        digest.update(part)
    if digest.hexdigest() != found:
        raise InvalidArtifact("the artifact is damaged: its seal does not fit its content")
