"""All suites of the learning core beside their peers, and at the end one table of what was reached.

    python -m benchmarks.learning [NAME ...] [--quick] [--data FOLDER] [--cache FOLDER] [--jobs N] [--markdown]

Suites that time something run first and alone, the others side by side in processes of their own.
Each suite's figures are kept as JSON under the cache folder. A suite that crashes is reported and the others go on;
only a crash makes the exit status 1, a goal that was missed does not. `--markdown` runs nothing: it prints the kept
figures as a section for docs/benchmarks.md.
"""

import argparse
import os
import sys
from pathlib import Path

from benchmarks.learning import records, tables
from benchmarks.learning.records import Record
from benchmarks.learning.results import Bench
from benchmarks.learning.running import TIMED, run_all

#: In the order in which they start: the longest first, lest one is left running alone.
QUALITY = ("sentiment", "omniglot", "hostile", "intents", "heart", "pacs", "pmlb")
SUITES = (*TIMED, *QUALITY)
ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """The exit status."""
    arguments = _arguments()
    folder = arguments.cache / "results"
    suites = tuple(name for name in SUITES if name in arguments.suites) or SUITES
    if arguments.markdown:
        return _print_stored(folder, suites, quick=arguments.quick)
    if not arguments.data.is_dir():
        print(f"There is no data at {arguments.data}: name the folder of development data with --data.")
        return 2
    bench = Bench(data=arguments.data, cache=arguments.cache, quick=arguments.quick, threads=arguments.threads)
    done = {}
    for record in run_all(suites, bench, arguments.jobs):
        records.write(record, folder)
        done[record.suite] = record
        print(f"[{len(done)}/{len(suites)}] {record.suite}: {_outcome(record)}, {record.seconds:.0f} s", flush=True)
    ran = [done[suite] for suite in suites]
    print(f"\n{tables.report(ran)}")
    return int(any(record.result is None for record in ran))


def _outcome(record: Record) -> str:
    if record.result is None:
        return "failed"
    reached = sum(goal.reached for goal in record.result.goals)
    return f"{reached} of {len(record.result.goals)} goals reached"


def _print_stored(folder: Path, suites: tuple[str, ...], *, quick: bool) -> int:
    found = records.read(folder, suites, quick=quick)
    if not found:
        print(f"No figures are kept in {folder}: run the suites first.")
        return 2
    print(tables.markdown(found))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning", description="The learning core beside its peers."
    )
    parser.add_argument("suites", nargs="*", metavar="NAME", help=f"of {', '.join(SUITES)}; none: all")
    parser.add_argument("--quick", action="store_true", help="the short form: fewer seeds, fewer rows, wider intervals")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "bench", help="encoded features and results")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="for encoders; all else has one")
    parser.add_argument("--jobs", type=int, default=2, help="suites side by side, sharing the threads; 1: in turn")
    parser.add_argument("--markdown", action="store_true", help="print the kept figures, run nothing")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.suites) - set(SUITES)):
        parser.error(f"unknown suite {', '.join(unknown)}; there are {', '.join(SUITES)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
