"""What every part of the benchmark is given, and how servers are measured side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmarks.serving import trees
from benchmarks.serving.inputs import Material
from benchmarks.serving.load import Generator, Load, Order, Request
from benchmarks.serving.metagraft import Home
from benchmarks.serving.peers.environments import CannotInstall
from benchmarks.serving.peers.running import PEERS, Place
from benchmarks.serving.systems import CannotStart, Input, System

#: More than the fastest server of each modality answers in a second: a run must not end for want of inputs.
PER_SECOND = {"tabular": 4000, "text": 1200, "image": 200}
VERIFY_CONCURRENCY = 4

Samples = dict[str, list["Sample"]]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """`home` has one adapted model of each modality, called like it; `exported` holds the same for peers."""

    folder: Path
    data: Path
    environments: Path
    quick: bool
    repeats: int
    seconds: float
    """Of one load."""
    generator: Generator
    home: Home
    exported: Path
    materials: Mapping[str, Material]
    known: Mapping[str, Sequence[tuple[Input, str]]]
    labels: Mapping[str, Sequence[str]]

    def place(self, name: str, models: Path) -> Place:
        """Folders for a start of a peer that nothing used before."""
        number = len(list(self.folder.glob("peer-*")))
        return Place(models=models, work=self.folder / f"peer-{number}-{name}", environments=self.environments)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One load, and what the server's processes computed meanwhile."""

    load: Load
    cpu_ms: float
    """Of the server's whole tree, a request."""


def measure(
    generator: Generator,
    system: System,
    requests: Sequence[Request],
    concurrency: int,
    seconds: float,
    *,
    pause_seconds: float = 0.0,
) -> Sample:
    """Each request at most once; the run ends after `seconds`, or when there are no more requests."""
    order = Order(
        port=system.port, requests=requests, concurrency=concurrency, seconds=seconds, count=len(requests),
        pause_seconds=pause_seconds,
    )  # fmt: skip
    before = trees.cpu_seconds(system.pid)
    load = generator.run(order)
    return Sample(load=load, cpu_ms=1000 * (trees.cpu_seconds(system.pid) - before) / load.requests)


def interleaved(
    systems: Sequence[System],
    repeats: int,
    one: Callable[[System, int], Sample],
) -> Samples:
    """`one` of each system in turn, over and over; each repeat starts with another system. One round goes before."""
    found: Samples = {system.name: [] for system in systems}
    for repeat in range(-1, repeats):
        turn = repeat % len(systems)
        for system in (*systems[turn:], *systems[:turn]):
            sample = one(system, repeat)
            if repeat >= 0:
                found[system.name].append(sample)
    return found


def fresh(bench: Bench, modality: str, seed: int, count: int) -> list[Input]:
    """Inputs that no other seed gives."""
    return list(islice(bench.materials[modality].distinct(seed), count))


def under_load(bench: Bench, modality: str, concurrency: int) -> Callable[[System, int], Sample]:
    """Measures a system with inputs that are new in each repeat, the same for all systems."""

    def one(system: System, repeat: int) -> Sample:
        seconds = bench.seconds if repeat >= 0 else bench.seconds / 2
        values = fresh(bench, modality, 1000 * concurrency + repeat, int(PER_SECOND[modality] * seconds))
        requests = [system.ask(modality, value, bench.labels[modality]) for value in values]
        return measure(bench.generator, system, requests, concurrency, seconds)

    return one


def verified(bench: Bench, system: System, modality: str, model: str | None = None) -> Load:
    """Every input with a known label, each answer compared with it."""
    requests = [system.ask(model or modality, value, [label]) for value, label in bench.known[modality]]
    sample = measure(bench.generator, system, requests, VERIFY_CONCURRENCY, 600.0)
    return sample.load


def wrong_in(samples: Samples) -> int:
    return sum(sample.load.wrong for several in samples.values() for sample in several)


def complaints_in(samples: Samples) -> list[str]:
    """What was wrong, once for each system."""
    found = {
        name: sample.load.complaint for name, several in samples.items() for sample in several if sample.load.wrong
    }
    return [f"{name}: {complaint}" for name, complaint in found.items()]


@contextmanager
def peers(
    bench: Bench, models: Path, notes: list[str], *, many: bool = False, tables: bool = False
) -> Iterator[list[System]]:
    """Every peer that can be installed and started, at once; `notes` gets the reason of each that cannot.

    `many`: only those that take several models in one server. `tables`: those too that take tables alone.
    """
    with ExitStack() as stack:
        systems = []
        for peer in PEERS:
            if (many and not peer.many) or (peer.tables_only and not tables):
                continue
            try:
                systems.append(stack.enter_context(peer.running(bench.place(peer.name.partition(",")[0], models))))
            except (CannotInstall, CannotStart) as error:
                notes.append(f"{peer.name} is missing: {' '.join(str(error).split())}")
        yield systems
