"""What handlers read: datasets of the job's project, with their examples."""

from collections.abc import Sequence

from sqlalchemy import select

from app.datasets.examples import Examples, load
from app.dependencies import Services
from app.errors import NotFound
from app.jobs.lifecycle import Claim
from app.tables import Dataset, MetaLearner


def find_datasets(services: Services, claim: Claim, ids: Sequence[str]) -> list[Dataset]:
    """The datasets, in the order of `ids`.

    Raises:
        NotFound: one was deleted since the job was submitted.
    """
    mine = select(Dataset).where(Dataset.id.in_(ids), Dataset.project_id == claim.project_id)
    with services.database.session(read_only=True) as session:
        found = {dataset.id: dataset for dataset in session.scalars(mine)}
    for dataset_id in ids:
        if dataset_id not in found:
            raise NotFound(f"Dataset '{dataset_id}' was deleted.", code="dataset_not_found")
    return [found[dataset_id] for dataset_id in ids]


def find_meta_learner(services: Services, claim: Claim, meta_learner_id: str | None) -> MetaLearner | None:
    """Raises `NotFound` where the meta-learner was deleted since the job was submitted."""
    if meta_learner_id is None:
        return None
    mine = select(MetaLearner).where(MetaLearner.id == meta_learner_id, MetaLearner.project_id == claim.project_id)
    with services.database.session(read_only=True) as session:
        found = session.scalar(mine)
    if found is None:
        raise NotFound(f"Meta-learner '{meta_learner_id}' was deleted.", code="meta_learner_not_found")
    return found


def load_named(
    services: Services, datasets: Sequence[Dataset], *, max_rows: int | None = None
) -> list[tuple[str, Examples]]:
    """(id, examples) of each dataset; of a larger one always the same `max_rows`, which the feature cache then has."""
    return [(dataset.id, load(services.storage, dataset, max_rows=max_rows)) for dataset in datasets]


def reference(dataset: Dataset) -> dict[str, str]:
    """A dataset as a lineage names it."""
    return {"id": dataset.id, "content_hash": dataset.content_hash}
