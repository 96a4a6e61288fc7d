"""From a call to its answers, for every protocol that the API speaks."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.dependencies import Services
from app.inference.answers import Prediction
from app.inference.serving import Question, is_immediate
from app.models.served import Selector, ServedVersion, served_version
from learning.base_learner import BaseLearner

T = TypeVar("T")


#: Watching a client takes as long as many an answer, so it is begun when this has passed without one.
_UNWATCHED_SECONDS = 0.03

#: What is asked, once it is known which version answers. Raises what the client did wrong.
Asker = Callable[[ServedVersion, BaseLearner], Question]


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered:
    """`predictions`: one for each input, in order; a bad input has `error` in its place."""

    version: ServedVersion
    learner: BaseLearner
    predictions: list[Prediction]


async def answered(
    services: Services, request: Request, project_id: str, name: str, selector: Selector, ask: Asker
) -> Answered:
    """Finds the version, has it answer, and counts the answers.

    A version that is replaced meanwhile goes on answering what came before.

    Raises:
        NotFound, InvalidInput, ArtifactCorrupted, IncompatibleDomain, Overloaded, DeadlineExceeded, Unavailable.
        ClientDisconnect: nobody waits for the answer any more.
    """
    version = await served_version(services, project_id, name, selector)
    serving = services.inference.serving
    model = serving.models.peek(version.artifact)
    if model is None:
        model = await unless_left(request, serving.loaded(version.artifact))
    question = ask(version, model.learner)
    if is_immediate(model, question):
        predictions = serving.answer_table(model, question)
    else:
        predictions = await unless_left(request, serving.answer(model, question))
    counter = request.app.state.metrics.predictions
    n_bad = sum("error" in prediction for prediction in predictions)
    counter.labels(version.modality, "answered").inc(len(predictions) - n_bad)
    if n_bad:
        counter.labels(version.modality, "refused").inc(n_bad)
    return Answered(version=version, learner=model.learner, predictions=predictions)


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it is cancelled as soon as the client is gone, but for its first moments.

    Raises:
        ClientDisconnect: it is; whatever `work` raises.
    """
    working = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({working}, timeout=_UNWATCHED_SECONDS)
        if not done:
            await _watched(request, working)
        return working.result()
    finally:
        working.cancel()


async def _watched(request: Request, working: "asyncio.Future[Any]") -> None:
    """Returns once the work is done; raises `ClientDisconnect` as soon as the client is gone."""
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
    finally:
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving


async def _left(request: Request) -> None:
    """Returns when the client closes its connection; the request has been read whole."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
