"""Adaptation: a target, sources and perhaps a meta-learner become the next version of a model."""

from importlib.metadata import version
from typing import Any

from sqlalchemy.orm import Session

from app import blobs
from app.dependencies import Services
from app.inference.training import AdaptOutcome, run_adapt
from app.jobs.lifecycle import Claim
from app.jobs.publish import Artifact, publish_version
from app.projects import quotas
from app.tables import Dataset, MetaLearner
from learning.config import MAX_SOURCE_ROWS
from learning.types import Progress
from worker.handlers.feedback import with_feedback
from worker.handlers.inputs import find_datasets, find_meta_learner, load_named, reference
from worker.persistence import persist


def run(services: Services, claim: Claim, progress: Progress) -> bool:
    """Whether the version was published."""
    spec = claim.spec
    progress(0.0, "loading")
    target, *sources = find_datasets(services, claim, [spec["dataset"], *spec["sources"]])
    meta_learner = find_meta_learner(services, claim, spec["meta_learner"])
    [(target_id, examples)] = load_named(services, [target])
    n_feedback = 0
    if spec["options"].get("include_feedback"):
        examples, n_feedback = with_feedback(services, claim, examples)
    outcome = run_adapt(
        services.inference,
        target=(target_id, examples),
        sources=load_named(services, sources, max_rows=MAX_SOURCE_ROWS),
        strategy=spec["strategy"],
        options=spec["options"],
        meta_learner=services.storage.read(meta_learner.artifact) if meta_learner else None,
        seed=spec["seed"],
        progress=progress,
    )
    lineage = _lineage(claim, target, sources, meta_learner, outcome) | {"n_feedback": n_feedback}
    return _publish(services, claim, target, outcome, lineage)


def _lineage(
    claim: Claim, target: Dataset, sources: list[Dataset], meta_learner: MetaLearner | None, outcome: AdaptOutcome
) -> dict[str, Any]:
    return {
        "dataset": reference(target),
        "sources": [reference(source) for source in sources],
        "meta_learner": meta_learner.id if meta_learner else None,
        "strategy": claim.spec["strategy"],
        "encoder": outcome.encoder,
        "seed": claim.spec["seed"],
        "options": claim.spec["options"],
        "service_version": version("metagraft"),
        "torch_version": version("torch"),
    }


def _publish(services: Services, claim: Claim, target: Dataset, outcome: AdaptOutcome, lineage: dict[str, Any]) -> bool:
    storage = services.storage
    artifact = Artifact(sha256=storage.put_bytes(outcome.artifact), size_bytes=len(outcome.artifact))

    def publish(session: Session) -> bool:
        quotas.claim(session, services.settings, claim.project_id, bytes=artifact.size_bytes)
        blobs.hold(session, storage, artifact.sha256, lambda: storage.put_bytes(outcome.artifact))
        return publish_version(
            session,
            claim,
            target=target,
            artifact=artifact,
            strategy=outcome.strategy,
            encoder=outcome.encoder,
            report=outcome.report,
            lineage=lineage,
        )

    return persist(services.database, publish)
