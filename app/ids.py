"""Identifiers: a prefix that names the kind, and a UUIDv7, so that ids sort by creation time."""

from uuid6 import uuid7


def new_id(prefix: str) -> str:
    """`ds_0192…`: `prefix` is one of ds, job, ml, key, prj, mv, fb."""
    return f"{prefix}_{uuid7().hex}"
