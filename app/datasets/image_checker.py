"""Has the images of one upload decoded by a child process, which may crash or hang without harm (see `image_child`)."""

import json
import signal
import socket
import subprocess
from contextlib import ExitStack
from typing import Any, BinaryIO

from app.datasets.children import Children, cannot_start, command, environment
from app.datasets.image_child import LENGTH, READY
from app.datasets.images import BadImage, ImageInfo
from app.settings import Settings

#: After so many crashes the rest of an upload is not looked at.
MAX_CRASHES = 3
#: The child counts the seconds it computes; the parent those that pass, many more on a busy machine.
_PATIENCE = 6
_START_SECONDS = 60.0
_LONGEST_ANSWER = 2**16


class _Crash(Exception):
    """The child gave no answer."""


class ImageChecker:
    """Starts its child with the first image. Close it, or use it as a context manager."""

    def __init__(self, settings: Settings, children: Children) -> None:
        self._limits = settings.model_dump(include={"max_image_bytes", "max_image_pixels"})
        self._limits["seconds"] = settings.image_seconds
        self._children = children
        self._place = ExitStack()
        self._child: _Child | None = None
        self._crashes = 0

    def __enter__(self) -> "ImageChecker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_spent(self) -> bool:
        """Whether too many images crashed the child for the rest to be worth it."""
        return self._crashes >= MAX_CRASHES

    def check(self, data: bytes) -> ImageInfo:
        """What the image is.

        Raises:
            BadImage: see `images.check_image`; or (undecodable_image) it crashes the decoder or takes too long.
            Unavailable: there is no place for a child, or none can be started.
        """
        if self._child is None:
            self._child = self._started()
        try:
            answer = self._child.ask(data)
        except _Crash as crash:
            self._crashes += 1
            self._end_child()
            raise BadImage("undecodable_image", f"cannot be decoded: {crash}") from None
        if "code" in answer:
            raise BadImage(answer["code"], answer["message"])
        return ImageInfo(**answer)

    def close(self) -> None:
        """Ends the child and gives its place back."""
        self._end_child()
        self._place.close()

    def _started(self) -> "_Child":
        if not self._crashes:
            self._place.enter_context(self._children.place())
        try:
            return _Child(self._limits)
        except OSError:
            raise cannot_start() from None

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.end()
        self._child = None


class _Child:
    """The running process and our end of its socket. Making one raises OSError where it does not get ready."""

    def __init__(self, limits: dict[str, int]) -> None:
        self._seconds = limits["seconds"]
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - no part of the command comes from a client
                    command("app.datasets.image_child", theirs.fileno(), json.dumps(limits)),
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()], env=environment(),
                )  # fmt: skip
            except OSError:
                ours.close()
                raise
        ours.settimeout(_START_SECONDS)
        self._socket = ours
        self._answers: BinaryIO = ours.makefile("rb")
        self._await_ready()
        ours.settimeout(_PATIENCE * self._seconds)

    def _await_ready(self) -> None:
        try:
            is_ready = self._answers.readline(len(READY)) == READY
        except OSError:
            is_ready = False
        if not is_ready:  # no image was sent, so none is to blame
            self.end()
            raise ChildProcessError("the decoder of images did not start")

    def ask(self, data: bytes) -> dict[str, Any]:
        """The child's answer to an image. Raises `_Crash` where there is none."""
        try:
            self._socket.sendall(LENGTH.pack(len(data)))
            self._socket.sendall(data)
            line = self._answers.readline(_LONGEST_ANSWER)
        except TimeoutError:
            raise _Crash(f"it takes more than {self._seconds} seconds") from None
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            raise _Crash(self._reason())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _reason(self) -> str:
        self._process.kill()  # it has closed its socket, or garbled its answer
        if self._process.wait() == -signal.SIGXCPU:
            return f"it takes more than {self._seconds} seconds"
        return "it crashes the decoder"

    def end(self) -> None:
        self._answers.close()
        self._socket.close()
        self._process.kill()
        self._process.wait()
