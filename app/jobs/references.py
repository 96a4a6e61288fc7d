"""Turns the ids and names of a request into rows, and checks that they belong together."""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.errors import Conflict, ErrorItem, InvalidInput, NotFound
from app.jobs.schemas import AdaptCreate, BatchPredictCreate, MetaTrainCreate
from app.models import service as models
from app.models.schemas import MAX_NUMBER
from app.tables import Dataset, MetaLearner, Model, ModelVersion

Row = TypeVar("Row", Dataset, MetaLearner)


class Complaints:
    """Collects everything that is wrong with a request, so that it is answered at once."""

    def __init__(self) -> None:
        self.items: list[ErrorItem] = []

    def add(self, pointer: str, code: str, message: str, hint: str | None = None) -> None:
        self.items.append(ErrorItem(pointer=pointer, code=code, message=message, hint=hint))

    def settle(self) -> None:
        """Raises `InvalidInput` if there was any complaint."""
        if self.items:
            first = self.items[0]
            raise InvalidInput(first.message, code=first.code, errors=self.items)


def _rows(
    session: Session, kind: type[Row], key: InstrumentedAttribute[str], project_id: str, ids: Sequence[str]
) -> dict[str, Row]:
    # The lock keeps a concurrent deletion out until the job that names these rows is committed.
    mine = select(kind).where(key.in_(ids), kind.project_id == project_id).with_for_update(read=True)
    return {row.id: row for row in session.scalars(mine)}


def _dataset(
    session: Session, project_id: str, dataset_id: str, pointer: str, complaints: Complaints
) -> Dataset | None:
    found = _rows(session, Dataset, Dataset.id, project_id, [dataset_id]).get(dataset_id)
    if found is None:
        complaints.add(pointer, "dataset_not_found", f"There is no dataset '{dataset_id}'.", "See GET /v1/datasets.")
    return found


def _sources(session: Session, project_id: str, ids: Sequence[str], complaints: Complaints) -> list[Dataset]:
    found = _rows(session, Dataset, Dataset.id, project_id, ids)
    for index, dataset_id in enumerate(ids):
        pointer = f"/sources/{index}"
        if dataset_id not in found:
            message = f"There is no dataset '{dataset_id}'."
            complaints.add(pointer, "dataset_not_found", message, "See GET /v1/datasets.")
        elif dataset_id in ids[:index]:
            complaints.add(pointer, "duplicate_source", f"Dataset '{dataset_id}' is named twice.", "Name it once.")
    return [found[dataset_id] for dataset_id in ids if dataset_id in found]


def _describe(row: Dataset | MetaLearner | Model) -> str:
    return f"{row.modality} {row.task}"


def _check_alike(
    pointer: str, row: Dataset | MetaLearner, other: Dataset, roles: tuple[str, str], complaints: Complaints
) -> None:
    if (row.modality, row.task) != (other.modality, other.task):
        what, against = roles
        message = f"The {what} '{row.id}' is {_describe(row)}, but the {against} '{other.id}' is {_describe(other)}."
        complaints.add(pointer, "modality_mismatch", message, "All must have one modality and one task.")


def _check_classes(pointer: str, dataset: Dataset, complaints: Complaints) -> None:
    if dataset.task == "classification" and len(dataset.classes) < 2:
        message = f"Dataset '{dataset.id}' has {len(dataset.classes)} class; a classifier needs at least 2."
        complaints.add(pointer, "too_few_classes", message, "Upload examples of another class.")


def resolve_meta_train(session: Session, project_id: str, body: MetaTrainCreate) -> list[Dataset]:
    """The source datasets.

    Raises:
        InvalidInput: one does not exist, or they do not belong together.
    """
    complaints = Complaints()
    sources = _sources(session, project_id, body.sources, complaints)
    for index, source in enumerate(sources):
        _check_alike(f"/sources/{index}", source, sources[0], ("source", "first source"), complaints)
        _check_classes(f"/sources/{index}", source, complaints)
    complaints.settle()
    return sources


def _meta_learner(session: Session, project_id: str, body: AdaptCreate, complaints: Complaints) -> MetaLearner | None:
    if body.meta_learner is None:
        return None
    found = _rows(session, MetaLearner, MetaLearner.id, project_id, [body.meta_learner]).get(body.meta_learner)
    if found is None:
        message = f"There is no meta-learner '{body.meta_learner}'."
        complaints.add("/meta_learner", "meta_learner_not_found", message, "See GET /v1/meta-learners.")
    return found


def _sources_to_use(
    session: Session, project_id: str, body: AdaptCreate, meta_learner: MetaLearner | None, complaints: Complaints
) -> list[Dataset]:
    if body.sources is not None:
        if body.dataset in body.sources:
            pointer = f"/sources/{body.sources.index(body.dataset)}"
            complaints.add(pointer, "source_is_target", "The target cannot be its own source.", "Leave it out.")
        return _sources(session, project_id, body.sources, complaints)
    if meta_learner is None:
        return []
    # The meta-learner keeps what it learnt from a source that was deleted since; its rows are just no longer there.
    own = [dataset_id for dataset_id in meta_learner.sources if dataset_id != body.dataset]
    found = _rows(session, Dataset, Dataset.id, project_id, own)
    return [found[dataset_id] for dataset_id in own if dataset_id in found]


def _check_strategy(body: AdaptCreate, sources: Sequence[Dataset], complaints: Complaints) -> None:
    if body.strategy == "metric" and not sources and not complaints.items:
        hint = "Name sources, or a meta-learner whose sources still exist, or use target_only."
        complaints.add("/sources", "sources_needed", "The strategy 'metric' needs at least one source.", hint)
    if body.strategy == "init" and body.meta_learner is None:
        hint = "Create one with a job of kind meta_train, or use auto."
        complaints.add("/meta_learner", "meta_learner_needed", "The strategy 'init' needs a meta-learner.", hint)


def resolve_adapt(
    session: Session, project_id: str, body: AdaptCreate
) -> tuple[Dataset, list[Dataset], MetaLearner | None]:
    """The target, the sources and the meta-learner.

    Raises:
        InvalidInput: something named does not exist, or does not belong together.
        Conflict: the model's name is taken by one of another modality or task.
    """
    complaints = Complaints()
    target = _dataset(session, project_id, body.dataset, "/dataset", complaints)
    meta_learner = _meta_learner(session, project_id, body, complaints)
    sources = _sources_to_use(session, project_id, body, meta_learner, complaints)
    if target is not None:
        _check_classes("/dataset", target, complaints)
        if meta_learner is not None:
            _check_alike("/meta_learner", meta_learner, target, ("meta-learner", "target"), complaints)
        for source in sources:
            index = body.sources.index(source.id) if body.sources else 0
            _check_alike(f"/sources/{index}", source, target, ("source", "target"), complaints)
    _check_strategy(body, sources, complaints)
    complaints.settle()
    if target is None:
        raise AssertionError("an unknown target is a complaint")
    check_name_is_free(session, project_id, body.model, target)
    return target, sources, meta_learner


def check_name_is_free(session: Session, project_id: str, name: str, target: Dataset) -> None:
    """Raises `Conflict` where the model `name` exists with another modality or task."""
    model = session.scalar(select(Model).where(Model.project_id == project_id, Model.name == name))
    if model is not None and (model.modality, model.task) != (target.modality, target.task):
        raise Conflict(
            f"The model '{name}' is {_describe(model)}, but dataset '{target.id}' is {_describe(target)}.",
            code="model_mismatch",
            errors=[ErrorItem(pointer="/model", code="model_mismatch", message=f"The name '{name}' is taken.",
                              hint="Choose another model name.")],
        )  # fmt: skip


def _version(session: Session, project_id: str, ref: str, complaints: Complaints) -> tuple[Model, ModelVersion] | None:
    """The model and version that `name`, `name@3` or `name@alias` names."""
    name, _, selector = ref.partition("@")
    number = min(int(selector), MAX_NUMBER) if selector.isdigit() else None
    # As `_rows` does: the version must not be deleted before the job that names it is committed.
    session.execute(
        select(Model.id).where(Model.project_id == project_id, Model.name == name).with_for_update(read=True)
    )
    try:
        return models.resolve(session, project_id, name, number=number, alias=selector or models.LATEST)
    except NotFound as error:
        hint = "Use name, name@number or name@alias; see GET /v1/models."
        complaints.add("/model", "model_not_found", error.detail, hint)
        return None


def resolve_batch_predict(
    session: Session, project_id: str, body: BatchPredictCreate
) -> tuple[Dataset, Model, ModelVersion]:
    """The dataset, the model and its version.

    Raises:
        InvalidInput: something named does not exist, or the modalities differ.
    """
    complaints = Complaints()
    dataset = _dataset(session, project_id, body.dataset, "/dataset", complaints)
    found = _version(session, project_id, body.model, complaints)
    if found is not None and dataset is not None and dataset.modality != found[0].modality:
        message = f"Dataset '{dataset.id}' is {dataset.modality}, but the model is {found[0].modality}."
        complaints.add("/dataset", "modality_mismatch", message, "Choose a dataset of the model's modality.")
    complaints.settle()
    if dataset is None or found is None:
        raise AssertionError("whatever is missing is a complaint")
    return dataset, *found
