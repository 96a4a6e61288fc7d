"""Serving beside peers, part by part, and at the end one table of what was required and reached.

    python -m benchmarks.serving [PART ...] [--quick] [--data FOLDER] [--cache FOLDER]

Peers are installed under the cache folder from the files in `benchmarks/serving/peers`; one that cannot be installed or
started is reported, and the rest goes on. Figures are kept as JSON under the cache folder, and what is printed as
Markdown. The exit status is 1 where something required was not reached, an answer was wrong, or a part failed.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.processes import ROOT
from benchmarks.serving import batching, beside, curves, encoders, idle, many, starting, switching
from benchmarks.serving.bench import Bench
from benchmarks.serving.load import generator
from benchmarks.serving.peers.environments import CannotInstall, environment
from benchmarks.serving.preparing import prepare
from benchmarks.serving.results import Section, all_reached, markdown, write

PICTURE = ROOT / "docs" / "serving-curves.png"


def _curves(bench: Bench) -> Section:
    section, plots = curves.run(bench)
    kept = bench.folder.parent / "curves.json"
    kept.write_text(json.dumps(plots) + "\n")
    if bench.quick:
        return section
    try:
        python = environment("plot", bench.environments) / "bin" / "python"
        command = [str(python), "-m", "benchmarks.serving.peers.plot", str(kept), str(PICTURE)]
        subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603 - our own module
    except (CannotInstall, subprocess.CalledProcessError) as error:
        return replace(section, notes=[*section.notes, f"The picture could not be drawn: {error}"])
    return section


PARTS: dict[str, Callable[[Bench], Section]] = {
    "tabular": beside.tabular,
    "text": beside.text,
    "image": beside.image,
    "batching": batching.run,
    "many": many.run,
    "switching": switching.run,
    "encoders": encoders.run,
    "idle": idle.run,
    "starting": starting.run,
    "curves": _curves,
}


def main() -> int:
    """The exit status."""
    arguments = _arguments()
    wanted = [name for name in PARTS if name in arguments.parts] or list(PARTS)
    cache: Path = arguments.cache
    work = cache / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    sections = []
    with generator() as load:
        bench = prepare(work, data=arguments.data, environments=cache / "peers", quick=arguments.quick, generator=load)
        for name in wanted:
            section = carried_out(name, bench)
            write(section, cache / ("quick" if arguments.quick else "results"))
            sections.append(section)
            print(f"[{len(sections)}/{len(wanted)}] {name}: {section.seconds:.0f} s", flush=True)
    shutil.rmtree(work, ignore_errors=True)
    text = markdown(sections, f"{'QUICK=1 ' if arguments.quick else ''}make bench-serving")
    (cache / "report.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}")
    return int(not all_reached(sections))


def carried_out(name: str, bench: Bench) -> Section:
    """The section of a part, with the traceback in it where it failed."""
    began = time.monotonic()
    try:
        section = PARTS[name](bench)
    except Exception:  # noqa: BLE001 - whatever goes wrong in one part, the others go on
        section = Section(name=name, protocol="", error=traceback.format_exc())
    return replace(section, seconds=time.monotonic() - began)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description="Serving beside peers.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; none: all")
    parser.add_argument("--quick", action="store_true", help="the short form: few repeats of a second, fewer models")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="real texts and photos")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "bench" / "serving")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.parts) - set(PARTS)):
        parser.error(f"unknown part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
