"""From a model's name to its predictions: what every route that answers shares."""

from collections.abc import Callable
from dataclasses import dataclass

from app.dependencies import Services
from app.inference.answers import Prediction
from app.inference.schemas import PredictRequest
from app.models.service import LATEST, resolve
from app.observability import Metrics
from app.tables import Model, ModelVersion

#: Makes the inputs out of what a client sent, once it is known which version answers. Raises what the client did wrong.
Reader = Callable[[Model, ModelVersion], PredictRequest]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """`predictions`: one per input, in order; a bad input has `error` in its place."""

    model: Model
    version: ModelVersion
    predictions: list[Prediction]


def answer(
    services: Services,
    metrics: Metrics,
    project_id: str,
    name: str,
    read: Reader,
    *,
    number: int | None = None,
    alias: str = LATEST,
) -> Answered:
    """Finds the version by its number, else by alias, has it answer, and counts the answers.

    Raises:
        NotFound: the project has no such model, version or alias.
        Unavailable, ArtifactCorrupted, IncompatibleDomain: the version cannot be used here.
    """
    # The session ends before the inference begins: a slow encoder must not hold a database connection.
    with services.database.session(read_only=True) as session:
        model, version = resolve(session, project_id, name, number=number, alias=alias)
    asked = read(model, version)
    predictions = services.inference.predict(version.artifact, asked.inputs, top_k=asked.top_k, explain=asked.explain)
    n_bad = sum("error" in prediction for prediction in predictions)
    metrics.predictions.labels(model.modality, "answered").inc(len(predictions) - n_bad)
    metrics.predictions.labels(model.modality, "refused").inc(n_bad)
    return Answered(model=model, version=version, predictions=predictions)
