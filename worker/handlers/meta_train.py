"""Meta-training: the sources become a meta-learner."""

from typing import Any

from sqlalchemy.orm import Session

from app import blobs
from app.dependencies import Services
from app.inference.training import MetaOutcome, run_meta_train
from app.jobs.lifecycle import Claim
from app.jobs.publish import Artifact, publish_meta_learner
from app.projects import quotas
from app.tables import Dataset
from learning.types import Progress
from worker.handlers.inputs import find_datasets, load_named, reference
from worker.persistence import persist


def run(services: Services, claim: Claim, progress: Progress) -> bool:
    """Whether the meta-learner was published."""
    spec = claim.spec
    progress(0.0, "loading")
    sources = find_datasets(services, claim, spec["sources"])
    outcome = run_meta_train(
        services.inference,
        sources=load_named(services, sources, max_rows=spec["options"].get("max_rows_per_source")),
        options=spec["options"],
        seed=spec["seed"],
        progress=progress,
    )
    lineage = {"sources": [reference(source) for source in sources], "options": spec["options"], "seed": spec["seed"]}
    return _publish(services, claim, sources, outcome, lineage)


def _publish(
    services: Services, claim: Claim, sources: list[Dataset], outcome: MetaOutcome, lineage: dict[str, Any]
) -> bool:
    storage = services.storage
    artifact = Artifact(sha256=storage.put_bytes(outcome.artifact), size_bytes=len(outcome.artifact))

    def publish(session: Session) -> bool:
        quotas.claim(session, services.settings, claim.project_id, bytes=artifact.size_bytes)
        blobs.hold(session, storage, artifact.sha256, lambda: storage.put_bytes(outcome.artifact))
        return publish_meta_learner(
            session,
            claim,
            sources=sources,
            artifact=artifact,
            encoder=outcome.encoder,
            card=outcome.card | {"lineage": lineage},
        )

    return persist(services.database, publish)
