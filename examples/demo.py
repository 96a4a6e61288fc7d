"""The whole service on real input, seen from outside: `make demo`.

Starts `metagraft serve` in a fresh folder and then only speaks HTTP to it. For texts, tables and images: upload source
domains, learn from them how to transfer, upload a few labelled rows of a new domain, adapt to it with every strategy,
predict rows that were never uploaded, and print one table.
"""

import argparse
import math
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import httpx
from demo_client import Client, DemoError, RefusedError
from demo_data import SCENARIOS, SHOTS, Scenario
from demo_service import running_service
from rich.console import Console
from rich.table import Table

STRATEGIES = ("target_only", "metric", "init", "auto")
LOG_LINES = 40


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One line of the table: a strategy on a modality, over all draws of the target's few labelled rows."""

    modality: str
    strategy: str
    accuracy: float
    interval: tuple[float, float]
    seconds: float
    note: str


def main() -> int:
    """The exit code: 0 when every job succeeded and the service stopped cleanly."""
    arguments = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 120)
    signal.signal(signal.SIGTERM, _terminated)
    folder = Path(tempfile.mkdtemp(prefix="metagraft-demo-"))
    try:
        return _demonstrate(arguments, folder, console)
    finally:
        if arguments.keep:
            console.print(f"Kept: METAGRAFT_DATA_DIR={folder / 'data'} make serve")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Metagraft on real texts, tables and images.")
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="this modality; may be repeated")
    parser.add_argument("--keep", action="store_true", help="keep the data folder, to look around with `make serve`")
    parser.add_argument("--seed", type=int, default=0, help="draws other few-shot rows")
    return parser.parse_args()


def _terminated(*_: object) -> NoReturn:
    sys.exit(143)  # unwinds, so that the service is stopped and the folder removed


def _demonstrate(arguments: argparse.Namespace, folder: Path, console: Console) -> int:
    log = folder / "service.log"
    started = time.monotonic()
    try:
        outcomes = _run(arguments.only or list(SCENARIOS), arguments.seed, folder / "data", log, console)
    except KeyboardInterrupt:
        console.print("Interrupted; the service is stopped.")
        return 130
    except (DemoError, httpx.HTTPError) as error:
        console.print(f"The demo failed: {error or type(error).__name__}", style="bold red", markup=False)
        _print_tail(log, console)
        return 1
    console.print(_table(outcomes))
    console.print(f"Done in {time.monotonic() - started:.0f} s; the service is stopped.")
    return 0


def _run(modalities: list[str], seed: int, data: Path, log: Path, console: Console) -> list[Outcome]:
    console.print("Starting metagraft serve …")
    with running_service(data, log) as url, Client(url, console) as client:
        return [
            outcome
            for modality in modalities
            for outcome in _transfer(client, SCENARIOS[modality](seed), seed, console)
        ]


def _transfer(client: Client, scenario: Scenario, seed: int, console: Console) -> list[Outcome]:
    console.print(f"[bold]{scenario.modality}[/bold]  {scenario.story}")
    sources = [client.upload(upload) for upload in scenario.sources]
    # A graft through all of Lite0 takes ten minutes without a GPU, and this is a demonstration.
    graft = {"steps": 0 if scenario.modality == "image" else 60}
    job = {"kind": "meta_train", "name": f"{scenario.modality}-demo", "sources": sources, "seed": seed}
    job["options"] = {"graft": graft}
    result, _ = client.run("meta-train", job)
    targets = [client.upload(upload) for upload in scenario.supports]
    meta_learner = str(result["meta_learner"])
    return [
        _adapt(client, scenario, strategy, targets=targets, meta_learner=meta_learner, seed=seed)
        for strategy in STRATEGIES
    ]


def _adapt(
    client: Client, scenario: Scenario, strategy: str, *, targets: list[str], meta_learner: str, seed: int
) -> Outcome:
    """Every draw becomes one version of the strategy's model, and each version answers the same unseen rows."""
    model = f"{scenario.modality}-{strategy.replace('_', '-')}"
    job = {"kind": "adapt", "model": model, "strategy": strategy, "seed": seed}
    if strategy != "target_only":
        job["meta_learner"] = meta_learner
    shares, seconds, reports = [], [], []
    for i, target in enumerate(targets, start=1):
        try:
            result, elapsed = client.run(f"adapt {strategy} {i}/{len(targets)}", {**job, "dataset": target})
        except RefusedError:
            shares.append(guessing(scenario.labels))
            continue
        predicted = client.predict(model, result["version"], scenario.inputs)
        shares.append(statistics.fmean(a == b for a, b in zip(predicted, scenario.labels, strict=True)))
        seconds.append(elapsed)
        reports.append(result["report"])
    accuracy = statistics.fmean(shares)
    return Outcome(
        modality=scenario.modality,
        strategy=strategy,
        accuracy=accuracy,
        interval=wilson(accuracy, len(scenario.labels)),
        seconds=statistics.fmean(seconds) if seconds else math.nan,
        note="; ".join(_notes(strategy, reports, n_refused=len(targets) - len(reports))),
    )


def guessing(labels: Sequence[str]) -> float:
    """The accuracy of always giving the most frequent label: what is left where no model was published."""
    return Counter(labels).most_common(1)[0][1] / len(labels)


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % score interval of a share of n rows.

    Draws are averaged first and n counts distinct rows: several draws judge the same rows, so counting every answer
    would make the interval look narrower than it is.
    """
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return centre - half, centre + half


def _notes(strategy: str, reports: list[dict[str, Any]], *, n_refused: int) -> Iterator[str]:
    if n_refused:
        yield f"{n_refused} of {n_refused + len(reports)} draws refused as no better than guessing, counted as guessing"
    if strategy == "auto" and reports:
        yield _choice(reports)


def _choice(reports: list[dict[str, Any]]) -> str:
    """What `auto` settled on in each draw, and the reason given for its most frequent choice."""
    counts = Counter(str(report["strategy"]) for report in reports)
    favourite, _ = counts.most_common(1)[0]
    because = next(report["chosen_because"] for report in reports if report["strategy"] == favourite)
    chosen = favourite if len(reports) == 1 else ", ".join(f"{name} {n}x" for name, n in counts.most_common())
    return f"{chosen}: {because}"


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(title=f"{SHOTS} labelled rows per class of a new domain; accuracy on rows the service never saw")
    for name in ("modality", "strategy"):
        table.add_column(name, no_wrap=True)
    for name in ("accuracy", "95 % interval", "adapt"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what auto chose, and why", overflow="fold")
    for i, outcome in enumerate(outcomes):
        low, high = outcome.interval
        last = i + 1 == len(outcomes) or outcomes[i + 1].modality != outcome.modality
        table.add_row(
            outcome.modality,
            outcome.strategy,
            f"{outcome.accuracy:.1%}",
            f"{low:.1%} to {high:.1%}",
            f"{outcome.seconds:.1f} s",
            outcome.note,
            end_section=last,
        )
    return table


def _print_tail(log: Path, console: Console) -> None:
    """The end of the service's log, without the lines that only say that a request was answered."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    telling = [line for line in lines if '"logger": "access"' not in line][-LOG_LINES:]
    console.print(f"The last {len(telling)} lines of the service's log, without its access lines:")
    for line in telling:
        console.print(line, markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
