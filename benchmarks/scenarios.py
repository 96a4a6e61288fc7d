"""The command line of a family of scenarios: runs them on each database and prints what was required and reached."""

import argparse
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from benchmarks.figures import Figure, table
from benchmarks.servers import DATABASES


class Scenario(Protocol):
    """`kind` is one of `servers.DATABASES`. Raises where the scenario itself could not be carried out."""

    def __call__(self, kind: str, *, short: bool) -> list[Figure]: ...


def command(
    program: str,
    description: str,
    scenarios: Mapping[str, Scenario],
    *,
    long_only: Collection[str] = (),
    databases: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """The exit status: 0 where everything was reached.

    Args:
        long_only: scenarios that a short run of everything leaves out.
        databases: of scenarios that concern only some.
    """
    asked = _arguments(program, description, scenarios)
    figures: list[Figure] = []
    everything = [name for name in scenarios if not (asked.short and name in long_only)]
    for name in asked.scenarios or everything:
        concerned = (databases or {}).get(name, DATABASES)
        for kind in [kind for kind in asked.database or DATABASES if kind in concerned]:
            figures += scenarios[name](kind, short=asked.short)
            print(f"{name} on {kind}: done", flush=True)
    print(f"\n{table(figures)}")
    return int(not all(figure.reached for figure in figures))


def _arguments(program: str, description: str, scenarios: Mapping[str, Scenario]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("scenarios", nargs="*", metavar="NAME", help=f"of {', '.join(scenarios)}; none: all")
    parser.add_argument("--short", action="store_true", help="a small part of each")
    parser.add_argument("--database", choices=DATABASES, action="append", help="only this one")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.scenarios) - set(scenarios)):
        parser.error(f"unknown scenario {', '.join(unknown)}; there are {', '.join(scenarios)}")
    return arguments
