"""Thousands of spoilt uploads, each a function of its number alone.

`python -m benchmarks.fuzz.mutations NUMBER` sends one of them to an API of its own and prints what it was and what came
back; with `--write FILE` it writes the request's body instead.
"""

import argparse
import queue
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.figures import Figure
from benchmarks.fuzz import seeds
from benchmarks.fuzz.attacks.building import two_classes, zip_of
from benchmarks.fuzz.attacks.cases import PROBLEM
from benchmarks.fuzz.mutators import mutated, spliced
from benchmarks.fuzz.seeds import Seed, picture
from benchmarks.fuzz.target import Target, target

COUNT, SHORT_COUNT = 5_000, 150
_SENDERS = 4
_BOUNDARY = "metagraft-mutation"
#: A longer one is refused before the service sees it.
_LONGEST_HEADER = 4_000


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A request that uploads something spoilt. `told` says how it came about."""

    told: str
    body: bytes
    content_type: str


def mutation(number: int) -> Mutation:
    """The mutation of this number, always the same."""
    chance = random.Random(number)  # noqa: S311 - it must be the same again
    (kind,) = chance.choices(list(_KINDS), list(_KINDS.values()))
    return kind(chance)


def _file(chance: random.Random, group: Sequence[Seed]) -> Mutation:
    """A spoilt file in a sound form."""
    seed = chance.choice(group)
    if chance.random() < 0.15:
        other = chance.choice(seeds.ARCHIVES + seeds.TABLES + seeds.OBJECTS + seeds.PARQUETS)
        return _sound_form(
            f"{seed.name} spliced with {other.name}", seed.filename, spliced(chance, seed.data, other.data)
        )
    data, names = mutated(chance, seed.data)
    return _sound_form(f"{seed.name}: {', '.join(names)}", seed.filename, data)


def _picture(chance: random.Random) -> Mutation:
    """A spoilt picture in a sound archive: its checksum in the archive is right."""
    place = chance.randrange(len(seeds.PICTURES))
    data, names = mutated(chance, picture(place))
    archive = zip_of(two_classes(1) | {"cat/9.png": data})
    return _sound_form(f"picture {place}: {', '.join(names)}", "a.zip", archive)


def _form(chance: random.Random) -> Mutation:
    """A sound table in a spoilt form."""
    seed = chance.choice(seeds.TABLES)
    sound = _sound_form("", seed.filename, seed.data[:200])
    body, names = mutated(chance, sound.body)
    content_type = sound.content_type
    if chance.random() < 0.2:
        spoilt, _ = mutated(chance, content_type.encode())
        # What a header cannot carry is left to those who speak HTTP by hand.
        content_type = "".join(
            letter for letter in spoilt.decode("latin-1") if letter.isascii() and letter.isprintable()
        )
        content_type = content_type.strip()[:_LONGEST_HEADER]
    return Mutation(told=f"form: {', '.join(names)}", body=body, content_type=content_type)


_KINDS: dict[Callable[[random.Random], Mutation], float] = {
    lambda chance: _file(chance, seeds.ARCHIVES): 0.24,
    _picture: 0.26,
    lambda chance: _file(chance, seeds.TABLES): 0.14,
    lambda chance: _file(chance, seeds.OBJECTS): 0.12,
    lambda chance: _file(chance, seeds.PARQUETS): 0.12,
    _form: 0.12,
}


def _sound_form(told: str, filename: str, data: bytes) -> Mutation:
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="name"\r\n\r\nmutation\r\n'
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="label_column"\r\n\r\n\r\n'
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + data + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return Mutation(told=told, body=body, content_type=f"multipart/form-data; boundary={_BOUNDARY}")


@dataclass
class Answers:
    """What came back. `wrong` tells of each answer that must not be, by the number of its mutation."""

    statuses: Counter[int] = field(default_factory=Counter)
    server_errors: int = 0
    hung: int = 0
    broken_off: int = 0
    no_problems: int = 0
    """4xx without an RFC 9457 problem that has a code."""
    wrong: list[str] = field(default_factory=list)

    def take(self, number: int, response: httpx.Response) -> None:
        status = response.status_code
        self.statuses[status] += 1
        self.server_errors += status >= 500
        is_wrong = status >= 500
        if 400 <= status < 500 and not _is_problem(response):
            self.no_problems += 1
            is_wrong = True
        if is_wrong:
            self.wrong.append(f"{number}: {status} {response.text[:300]}")


def _is_problem(response: httpx.Response) -> bool:
    try:
        body = response.json()
    except ValueError:
        return False
    is_named = response.headers.get("content-type", "").startswith(PROBLEM)
    return is_named and isinstance(body, dict) and bool(body.get("code")) and body.get("status") == response.status_code


def send(client: httpx.Client, number: int, answers: Answers) -> None:
    """Sends one mutation and takes its answer down."""
    request = mutation(number)
    try:
        response = client.post("/v1/datasets", content=request.body, headers={"Content-Type": request.content_type})
    except httpx.TimeoutException:
        answers.hung += 1
        answers.wrong.append(f"{number}: no answer")
    except httpx.TransportError as error:
        answers.broken_off += 1
        answers.wrong.append(f"{number}: {error!r}")
    else:
        answers.take(number, response)


def send_all(where: Target, numbers: Sequence[int], senders: int = _SENDERS) -> Answers:
    """Sends them over a few connections that are kept."""
    answers, waiting, lock = Answers(), queue.SimpleQueue[int](), threading.Lock()
    for number in numbers:
        waiting.put(number)

    def work() -> None:
        with where.client() as client:
            while True:
                try:
                    number = waiting.get_nowait()
                except queue.Empty:
                    return
                mine = Answers()
                send(client, number, mine)
                with lock:
                    _add(answers, mine)

    threads = [threading.Thread(target=work, name=f"sender-{i}") for i in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def _add(total: Answers, more: Answers) -> None:
    total.statuses += more.statuses
    total.server_errors += more.server_errors
    total.hung += more.hung
    total.broken_off += more.broken_off
    total.no_problems += more.no_problems
    total.wrong += more.wrong


def _blobs_without_datasets(where: Target) -> int:
    """Stored files less the datasets that have them."""
    datasets = 0
    page: dict[str, Any] = {"next_page_token": ""}
    with where.client() as client:
        while (token := page["next_page_token"]) is not None:
            params = {"page_size": "100", "page_token": token}
            page = client.get("/v1/datasets", params=params if token else {"page_size": "100"}).json()
            datasets += len(page["items"])
    return len(where.stored_files()) - datasets


def mutate_uploads(kind: str, *, short: bool) -> list[Figure]:
    """The scenario: what spoilt uploads get for an answer, and what they leave."""
    count = SHORT_COUNT if short else COUNT
    with target(kind) as where:
        answers = send_all(where, range(count))
        children, is_alive = where.children_left(), where.is_alive()
        left = len(where.temporary_files()) + abs(_blobs_without_datasets(where))
    for line in answers.wrong:
        print(f"wrong: mutation {line}")
    taken = answers.statuses[200] + answers.statuses[201]
    told = f"{count} mutated uploads on {kind}"
    lost = children + (not is_alive) + answers.broken_off
    return [
        Figure(f"{told}: answers of 5xx", "0", answers.server_errors, answers.server_errors == 0),
        Figure(f"{told}: without an answer", "0", answers.hung, answers.hung == 0),
        Figure(f"{told}: connections broken off, processes died or left", "0", lost, lost == 0),
        Figure(f"{told}: 4xx that are no problem with a code", "0", answers.no_problems, answers.no_problems == 0),
        Figure(f"{told}: files left", "0", left, left == 0),
        Figure(f"{told}: still good, and taken", "at least 1", taken, taken > 0),
    ]


def _replay(number: int, file: Path | None) -> None:
    request = mutation(number)
    print(f"mutation {number}: {request.told}; {len(request.body)} bytes as {request.content_type}")
    if file is not None:
        file.write_bytes(request.body)
        return
    with target("sqlite") as where, where.client() as client:
        headers = {"Content-Type": request.content_type}
        response = client.post("/v1/datasets", content=request.body, headers=headers)
        print(response.status_code, response.text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz.mutations", description="Replays one mutation.")
    parser.add_argument("number", type=int)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the body of the request instead")
    asked = parser.parse_args()
    _replay(asked.number, asked.write)
