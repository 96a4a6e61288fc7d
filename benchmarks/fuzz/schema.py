"""Requests made up from the API's own description, fitting and unfitting, and every answer held against it."""

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode

from app.settings import Settings
from benchmarks import servers
from benchmarks.figures import Figure
from benchmarks.fuzz.prepared import Prepared, prepared
from benchmarks.inprocess import serving
from benchmarks.processes import running_api

CASES = 5_000
PER_ROUND = 8
MAX_ROUNDS = 60
TIMEOUT_SECONDS = 30.0
#: What can be held against any answer, whatever the request was.
CHECK_NAMES = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance",
)  # fmt: skip
UNKNOWN_KEY = {"Authorization": "Bearer mg_" + "0" * 32 + "_" + "A" * 43}


@dataclass
class Tried:
    """What came of one operation."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def has_succeeded(self) -> bool:
        return any(status < 300 for status in self.statuses)


class Fuzz:
    """Cases against one running service."""

    def __init__(self, url: str, there: Prepared) -> None:
        self._url, self._there = url, there
        self._http = httpx.Client(base_url=url, headers=there.headers, timeout=TIMEOUT_SECONDS, trust_env=False)
        self._session = requests.Session()
        self._session.trust_env = False
        document = self._http.get("/openapi.json").raise_for_status().json()
        found: Any = schemathesis.openapi.from_dict(document).get_all_operations()
        self._operations = [each.ok() for each in found]  # one that cannot be read raises here
        self._secured = {
            (method.upper(), path)
            for path, item in document["paths"].items()
            for method, operation in item.items()
            if operation.get("security")
        }
        load_all_checks()
        self._checks = [check for check in CHECKS.get_all() if check.__name__ in CHECK_NAMES]
        if len(self._checks) != len(CHECK_NAMES):
            raise RuntimeError("schemathesis knows these checks by other names")
        self.tried = {operation.label: Tried() for operation in self._operations}

    @property
    def cases(self) -> int:
        return sum(tried.statuses.total() for tried in self.tried.values())

    def close(self) -> None:
        self._http.close()
        self._session.close()

    def round(self, number: int, examples: int) -> None:
        """So many fitting and so many unfitting cases of every operation; the same ones for the same number."""
        for operation in self._operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                self._make_up(operation, mode, number, examples)

    def _make_up(self, operation: Any, mode: Any, number: int, examples: int) -> None:
        turns = itertools.count()

        @hypothesis.seed(number)
        @hypothesis.settings(
            max_examples=examples, database=None, deadline=None, phases=[Phase.generate], verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck), derandomize=False,
        )  # fmt: skip
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def each(case: Any) -> None:
            self._try(case, next(turns))

        try:
            each()
        except hypothesis.errors.Unsatisfiable:
            return  # nothing about it can be unfitting

    def _try(self, case: Any, turn: int) -> None:
        if turn % 2:
            self._make_real(case)
        tried = self.tried[case.operation.label]
        response = case.call(
            base_url=self._url, session=self._session, headers=self._there.headers, timeout=TIMEOUT_SECONDS
        )
        tried.statuses[response.status_code] += 1
        try:
            case.validate_response(response, checks=self._checks)
        except FailureGroup as group:
            tried.failures += [f"{case.method} {response.request.url[:200]}: {error}" for error in group.exceptions]

    def _make_real(self, case: Any) -> None:
        if case.path_parameters:
            names = list(case.path_parameters)
            case.path_parameters = case.path_parameters | self._there.path(self._http, case.method, case.path, names)
        if isinstance(case.body, dict):
            case.body = self._there.body(case.path, case.body)

    def without_keys(self) -> None:
        """Every operation that asks for a key must refuse those who have none, or one that nobody knows."""
        with httpx.Client(base_url=self._url, timeout=TIMEOUT_SECONDS, trust_env=False) as stranger:
            for operation in self._operations:
                if (operation.method.upper(), operation.path) not in self._secured:
                    continue
                path = operation.path.format_map(_Anything(self._there.ids))
                for headers in ({}, UNKNOWN_KEY):
                    status = stranger.request(operation.method.upper(), path, headers=headers).status_code
                    tried = self.tried[operation.label]
                    tried.statuses[status] += 1
                    if status != 401:
                        tried.failures.append(f"{operation.label} answers {status} to {headers or 'no key'}")


class _Anything(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "none"


@contextmanager
def _fuzzing(settings: Settings, there: Prepared, folder: Any, *, inprocess: bool) -> Iterator[Fuzz]:
    with serving(settings) if inprocess else running_api(settings, folder) as served:
        fuzz = Fuzz(served.url, there)
        try:
            yield fuzz
        finally:
            fuzz.close()


def run(kind: str, *, short: bool) -> list[Figure]:
    """`short`: one round against a server in this process."""
    began = time.monotonic()
    with servers.scratch() as folder, servers.database(kind, folder) as url, servers.broker(folder) as broker_url:
        settings = servers.quick_settings(folder, url, broker_url)
        with (
            prepared(settings, meta_learner=not short) as there,
            _fuzzing(settings, there, folder, inprocess=short) as fuzz,
        ):
            fuzz.without_keys()
            for number in range(1 if short else MAX_ROUNDS):
                fuzz.round(number, 2 if short else PER_ROUND)
                if not short and fuzz.cases >= CASES:
                    break
    return _figures(fuzz, kind, time.monotonic() - began, wanted=1 if short else CASES)


def _figures(fuzz: Fuzz, kind: str, seconds: float, *, wanted: int) -> list[Figure]:
    failures = [failure for tried in fuzz.tried.values() for failure in tried.failures]
    for failure in failures[:20]:
        print(f"failure: {failure}")
    never = [label for label, tried in fuzz.tried.items() if not tried.has_succeeded]
    if never:
        print(f"never answered 2xx: {', '.join(never)}")
    told, count = f"made-up requests on {kind}, {seconds:.0f} s", len(fuzz.tried)
    covered = sum(bool(tried.statuses) for tried in fuzz.tried.values())
    return [
        Figure(f"{told}: cases", f"at least {wanted}", fuzz.cases, fuzz.cases >= wanted),
        Figure(f"{told}: operations tried of {count}", str(count), covered, covered == count),
        Figure(f"{told}: answers that break the description", "0", len(failures), not failures),
    ]
