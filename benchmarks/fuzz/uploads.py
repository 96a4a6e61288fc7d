"""Every attack and every harmless oddity, one after the other, to a running API."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.figures import Figure
from benchmarks.fuzz.attacks.building import parquet_of, two_classes, zip_of
from benchmarks.fuzz.attacks.cases import Attack, Harmless, is_accepted, is_refused, names_place
from benchmarks.fuzz.attacks.collection import ATTACKS
from benchmarks.fuzz.attacks.harmless import HARMLESS
from benchmarks.fuzz.target import MemoryWatch, Target, target

#: Half as much again as was measured (500 to 550 MB over the start, 200 of them in the child that has the largest
#: picture that the limits let in). What must not be is growth with the uploads, of which some have 400 MB here and
#: would inflate to 10 GB.
MAX_GROWTH = 800 * 10**6
_SHORT_STEP = 15


@dataclass
class Audit:
    """What the answers were. `wrong` tells each that should have been another."""

    refused: int = 0
    places: int = 0
    named: int = 0
    accepted: int = 0
    server_errors: int = 0
    left: int = 0
    wrong: list[str] = field(default_factory=list)


def send(client: httpx.Client, case: Attack | Harmless) -> tuple[httpx.Response, dict[str, Any]]:
    """The answer to an upload, and its body where that is a JSON object."""
    form = {"name": case.name, **case.form}
    response = client.post("/v1/datasets", files={"file": (case.filename, case.make())}, data=form)
    try:
        body = response.json()
    except ValueError:
        body = {}
    return response, body if isinstance(body, dict) else {}


def send_attacks(client: httpx.Client, attacks: Iterable[Attack], audit: Audit) -> Iterable[Attack]:
    """Sends them, and gives each back once it was judged."""
    for attack in attacks:
        response, body = send(client, attack)
        is_right = is_refused(attack, response.status_code, response.headers.get("content-type", ""), body)
        audit.refused += is_right
        audit.server_errors += response.status_code >= 500
        if not is_right:
            audit.wrong.append(f"{attack.name}: {response.status_code} {response.text[:300]}")
        if attack.has_place:
            audit.places += 1
            is_named = names_place(attack, body)
            audit.named += is_named
            if is_right and not is_named:
                audit.wrong.append(f"{attack.name}: names no place: {response.text[:300]}")
        yield attack


def send_harmless(client: httpx.Client, files: Iterable[Harmless], audit: Audit) -> Iterable[Harmless]:
    """The same for files that must be accepted."""
    for harmless in files:
        response, body = send(client, harmless)
        is_right = is_accepted(harmless, response.status_code, body)
        audit.accepted += is_right
        audit.server_errors += response.status_code >= 500
        if not is_right:
            audit.wrong.append(f"{harmless.name}: {response.status_code} {response.text[:300]}")
        yield harmless


def _warm_up(client: httpx.Client) -> None:
    """One honest upload of each kind, deleted again, so that growth does not count what is loaded once."""
    honest = {"a.zip": zip_of(two_classes(1)), "a.parquet": parquet_of({"x": [1, 2], "label": ["a", "b"]}),
              "a.csv": b"x,label\n1,a\n2,b\n3,a\n"}  # fmt: skip
    for filename, data in honest.items():
        answer = client.post("/v1/datasets", files={"file": (filename, data)}, data={"name": "warm up"})
        client.delete(answer.raise_for_status().headers["Location"]).raise_for_status()


def run(where: Target, attacks: Sequence[Attack], harmless: Sequence[Harmless]) -> tuple[Audit, MemoryWatch]:
    audit = Audit()
    with where.client() as client:
        _warm_up(client)
        with MemoryWatch(where.api.process.pid) as watch:
            seen = where.temporary_files() | where.stored_files()
            for attack in send_attacks(client, _announced(attacks, watch), audit):
                left = (where.temporary_files() | where.stored_files()) - seen
                seen |= left
                audit.left += len(left)
                if left:
                    audit.wrong.append(f"{attack.name}: left {len(left)} files")
            for _ in send_harmless(client, _announced(harmless, watch), audit):
                audit.left += len(where.temporary_files() - seen)
    return audit, watch


def _announced(cases: Iterable[Any], watch: MemoryWatch) -> Iterable[Any]:
    for case in cases:
        watch.now = case.name
        yield case


def attack_files(kind: str, *, short: bool) -> list[Figure]:
    """The scenario: of every attack the answer, of all together the traces."""
    attacks = [attack for attack in ATTACKS if not attack.is_heavy][::_SHORT_STEP] if short else list(ATTACKS)
    harmless = HARMLESS[::_SHORT_STEP] if short else HARMLESS
    with target(kind) as where:
        audit, watch = run(where, attacks, harmless)
        children, is_alive = where.children_left(), where.is_alive()
    for line in audit.wrong:
        print(f"wrong: {line}")
    told = f"uploads on {kind}"
    growth = watch.growth_bytes / 10**6
    return [
        Figure(f"{told}: attacks refused as they should be", str(len(attacks)), audit.refused,
               audit.refused == len(attacks)),
        Figure(f"{told}: of those with a row, column or entry to name, named", str(audit.places), audit.named,
               audit.named == audit.places),
        Figure(f"{told}: harmless oddities accepted", str(len(harmless)), audit.accepted,
               audit.accepted == len(harmless)),
        Figure(f"{told}: answers of 5xx", "0", audit.server_errors, audit.server_errors == 0),
        Figure(f"{told}: files left", "0", audit.left, audit.left == 0),
        Figure(f"{told}: processes left or died", "0", children + (not is_alive), children == 0 and is_alive),
        Figure(f"{told}: MB that memory grew, most during '{watch.most_during}'", f"at most {MAX_GROWTH // 10**6}",
               round(growth), growth <= MAX_GROWTH / 10**6),
    ]  # fmt: skip
