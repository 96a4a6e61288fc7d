"""Throw-away virtual environments: one for each peer, kept between runs while its requirements stay as they are."""

import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

REQUIREMENTS = Path(__file__).parent
#: A stalled download is reported, not waited for.
INSTALL_SECONDS = 900.0
_STAMP = ".installed"


class CannotInstall(Exception):
    """With the end of what pip said."""


def environment(name: str, folder: Path) -> Path:
    """The folder of the environment with the packages of `<name>.txt`, made where it is not there yet.

    torch, transformers and the encoders' weights are heavy and have to be the very same everywhere: they are read from
    the environment this runs in, which comes last on the path, so a peer's own packages go before.

    Raises:
        CannotInstall: pip failed.
    """
    requirements, place = REQUIREMENTS / f"{name}.txt", folder / name
    shared = sysconfig.get_paths()["purelib"]
    wanted = hashlib.sha256(json.dumps([requirements.read_text(), shared, sys.version]).encode()).hexdigest()
    if (place / _STAMP).exists() and (place / _STAMP).read_text() == wanted:
        return place
    shutil.rmtree(place, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(place)])
    _run([str(place / "bin" / "pip"), "install", "--quiet", "--no-deps", "-r", str(requirements)])
    (_site_packages(place) / "shared.pth").write_text(f"{shared}\n")
    (place / _STAMP).write_text(wanted)
    return place


def _site_packages(place: Path) -> Path:
    return next((place / "lib").glob("python*/site-packages"))


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise CannotInstall(f"{' '.join(command[:3])} was not over after {INSTALL_SECONDS:.0f} s") from None
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR")]
        raise CannotInstall(" ".join(lines)[-500:] or f"pip ended with {done.returncode}")
