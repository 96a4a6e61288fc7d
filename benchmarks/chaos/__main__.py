"""Faults in every part of the service while it works, and what must hold afterwards.

`python -m benchmarks.chaos` runs every scenario on SQLite and on PostgreSQL and prints what was required and reached.
"""

import sys

from benchmarks import scenarios
from benchmarks.chaos import drains, failpoints, kills, outages, permuted, races
from benchmarks.chaos.faults import FAULTS, PLACES
from benchmarks.chaos.load import Load
from benchmarks.figures import Figure

JOBS, KILLS = 250, 250
SHORT_JOBS, SHORT_KILLS = 20, 12
SUBMISSIONS = 50
PERMUTED, SHORT_PERMUTED = 50, 3


def random_kills(kind: str, *, short: bool) -> list[Figure]:
    jobs, wanted = (SHORT_JOBS, SHORT_KILLS) if short else (JOBS, KILLS)
    ledger, fleet, seconds = kills.run(kind, jobs=jobs, kills=wanted)
    told = f"{jobs} jobs on {kind}, {seconds:.0f} s"
    return [
        Figure(f"{told}: workers killed", f"at least {wanted}", fleet.kills, fleet.kills >= wanted),
        Figure(f"{told}: workers frozen past their lease", "at least 1", fleet.freezes, fleet.freezes > 0),
        Figure(f"{told}: jobs lost", "0", ledger.lost, ledger.lost == 0),
        Figure(f"{told}: jobs with two versions", "0", ledger.duplicated, ledger.duplicated == 0),
        Figure(f"{told}: gaps in version numbers", "0", ledger.gaps, ledger.gaps == 0),
        Figure(f"{told}: events after a terminal one, or missing", "0", ledger.after_the_end + ledger.event_gaps,
               ledger.after_the_end + ledger.event_gaps == 0),
    ]  # fmt: skip


def without_fences(kind: str, *, short: bool) -> list[Figure]:
    jobs, wanted = (SHORT_JOBS, SHORT_KILLS) if short else (JOBS, KILLS)
    ledger, _, seconds = kills.run(kind, jobs=jobs, kills=wanted, fenced=False)
    told = f"{jobs} jobs on {kind} without fences, {seconds:.0f} s: violations"
    return [Figure(told, "at least 1", ledger.violations, ledger.violations > 0)]


def faults_at_places(kind: str, *, short: bool) -> list[Figure]:
    places = list(PLACES)[::4] if short else list(PLACES)
    cases, ledger, seconds = failpoints.run(kind, places)
    for case in cases:
        if not case.is_right:
            print(f"wrong: {case}")
    right = sum(case.is_right for case in cases)
    told = f"{len(places)} places x {len(FAULTS)} faults on {kind}, {seconds:.0f} s"
    return [
        Figure(f"{told}: struck, and the job reached its right end", str(len(cases)), right, right == len(cases)),
        Figure(f"{told}: violations", "0", ledger.violations, ledger.violations == 0),
    ]


def cancel_races(kind: str, *, short: bool) -> list[Figure]:
    pairs = 20 if short else 500
    race = races.cancelling(kind, pairs)
    told = f"{pairs} jobs cancelled around their end on {kind}, {race.seconds:.0f} s"
    ended = race.states["succeeded"] + race.states["cancelled"]
    wrong = race.ledger.inconsistent
    return [
        Figure(f"{told}: succeeded or cancelled", str(pairs), ended, ended == pairs),
        Figure(f"{told}: ended twice, or a version too many or too few", "0", wrong, wrong == 0),
        Figure(f"{told}: succeeded before the cancel", "at least 1", race.states["succeeded"],
               race.states["succeeded"] > 0),
        Figure(f"{told}: cancelled", "at least 1", race.states["cancelled"], race.states["cancelled"] > 0),
    ]  # fmt: skip


def one_key(kind: str, *, short: bool) -> list[Figure]:  # noqa: ARG001 - it takes a second
    race = races.submitting_at_once(kind, SUBMISSIONS)
    told = f"{SUBMISSIONS} submissions at once with one Idempotency-Key on {kind}: jobs"
    return [Figure(told, "1", race.ledger.jobs, race.ledger.jobs == 1 and race.ledger.violations == 0)]


def poison(kind: str, *, short: bool) -> list[Figure]:
    others = 5 if short else 50
    race = races.poisoning(kind, others)
    told = f"a job that kills its workers among {others} others on {kind}, {race.seconds:.0f} s"
    return [
        Figure(f"{told}: ends as worker_crashed", "1", race.errors["worker_crashed"],
               race.errors == {"worker_crashed": 1}),
        Figure(f"{told}: others succeed", str(others), race.states["succeeded"], race.states["succeeded"] == others),
    ]  # fmt: skip


def permuted_labels(kind: str, *, short: bool) -> list[Figure]:
    jobs = SHORT_PERMUTED if short else PERMUTED
    meaningless, honest, ledger, seconds = permuted.run(kind, jobs)
    told = f"{jobs} jobs with permuted labels on {kind}, {seconds:.0f} s"
    ended = meaningless.published + meaningless.refused
    silent, doubted = meaningless.published - meaningless.doubted, honest.doubted
    return [
        Figure(f"{told}: published, or refused as useless", str(jobs), ended,
               ended == jobs and ledger.inconsistent == 0),
        Figure(f"{told}: promoted without a warning", "0", silent, silent == 0),
        Figure(f"{jobs} jobs with honest labels on {kind}: published", str(jobs), honest.published,
               honest.published == jobs),
        Figure(f"{jobs} jobs with honest labels on {kind}: warned about", "0", doubted, doubted == 0),
    ]  # fmt: skip


def broker_away(kind: str, *, short: bool) -> list[Figure]:
    times, away = (2, 3.0) if short else (20, 60.0)
    outage = outages.of_the_broker(kind, times=times, away=away)
    _tell(outage.load)
    told = f"Valkey killed {times} times, emptied as often, away for {away:.0f} s, on {kind}, {outage.seconds:.0f} s"
    submissions, accepted = outage.load.submitted.total(), outage.load.submitted[202]
    return [
        Figure(f"{told}: of {submissions} submissions answered 202", str(submissions), accepted,
               accepted == submissions > 0),
        Figure(f"{told}: other requests that failed", "0", outage.load.failed, outage.load.failed == 0),
        Figure(f"{told}: violations", "0", outage.ledger.violations, outage.ledger.violations == 0),
    ]  # fmt: skip


def database_restarts(kind: str, *, short: bool) -> list[Figure]:
    times, seconds = (2, 8.0) if short else (10, 300.0)
    outage = outages.of_the_database(times=times, seconds=seconds)
    _tell(outage.load)
    told = f"{kind} restarted {times} times in {seconds:.0f} s"
    wrong = outage.load.failed - outage.load.statuses[503]
    return [
        Figure(f"{told}: of {outage.load.requests} answers neither a success nor 503 "
               f"({outage.load.statuses[503]} were 503)", "0", wrong, wrong == 0),
        Figure(f"{told}: of {len(outage.load.acknowledged)} acknowledged writes lost", "0", len(outage.lost),
               not outage.lost and bool(outage.load.acknowledged)),
        Figure(f"{told}: violations", "0", outage.ledger.violations, outage.ledger.violations == 0),
    ]  # fmt: skip


def drains_under_load(kind: str, *, short: bool) -> list[Figure]:
    rounds = 1 if short else 20
    found = drains.run(kind, rounds)
    _tell(found.load)
    told = f"{rounds} times SIGTERM to the API and the workers of metagraft serve on {kind}, {found.seconds:.0f} s"
    wanted = rounds * drains.ASKED
    return [
        Figure(f"{told}: processes ended", str(wanted), found.ended, found.ended == wanted),
        Figure(f"{told}: of {found.load.requests} requests failed", "0", found.load.failed,
               found.load.failed == 0 < found.load.requests),
        Figure(f"{told}: jobs charged for it", "0", found.charged, found.charged == 0),
        Figure(f"{told}: acknowledged writes lost, and violations", "0", len(found.lost) + found.ledger.violations,
               not found.lost and found.ledger.violations == 0),
    ]  # fmt: skip


def _tell(load: Load) -> None:
    """Prints refusals that are not what an outage explains."""
    for line in [line for line in load.refused if ": 503 " not in line][:10]:
        print(f"refused: {line}")


SCENARIOS: dict[str, scenarios.Scenario] = {
    "idempotency": one_key,
    "poison": poison,
    "permuted": permuted_labels,
    "cancel": cancel_races,
    "faults": faults_at_places,
    "kills": random_kills,
    "unfenced": without_fences,
    "broker": broker_away,
    "database": database_restarts,
    "drains": drains_under_load,
}

#: A dozen kills rarely hit the moment at which a missing fence shows.
LONG_ONLY = {"unfenced"}
#: A file cannot be restarted.
CONCERN = {"database": ("postgresql",)}


if __name__ == "__main__":
    about = __doc__.splitlines()[0]
    sys.exit(scenarios.command("python -m benchmarks.chaos", about, SCENARIOS, long_only=LONG_ONLY, databases=CONCERN))
