from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select

from app.dependencies import Services
from app.errors import Conflict
from app.jobs import lifecycle
from app.jobs.lifecycle import Claim
from app.jobs.publish import Artifact, publish_meta_learner, publish_predictions, publish_version
from app.tables import AliasMove, Dataset, MetaLearner, Model, ModelAlias, ModelVersion
from tests.jobs import claimed, dataset_row, event_types, job_row, queued

ARTIFACT = Artifact(sha256="a" * 64, size_bytes=3)


def _publish(services: Services, claim: Claim, target: Dataset, **values: Any) -> bool:
    with services.database.transaction() as session:
        return publish_version(
            session,
            claim,
            target=target,
            artifact=ARTIFACT,
            strategy="target_only",
            encoder="table",
            report=values.get("report", {"strategy": "target_only"}),
            lineage={"seed": 0},
        )


def _all(services: Services, table: type[Any]) -> list[Any]:
    with services.database.session(read_only=True) as session:
        return list(session.scalars(select(table)))


def test_publishing_makes_version_alias_and_success_when_the_claim_stands(services: Services):
    claim = claimed(services, queued(services, model="m"))
    assert _publish(services, claim, dataset_row(services))
    (version,) = _all(services, ModelVersion)
    (alias,) = _all(services, ModelAlias)
    (move,) = _all(services, AliasMove)
    assert (version.number, version.job_id, version.artifact) == (1, claim.job_id, ARTIFACT.sha256)
    assert (alias.alias, alias.number) == ("latest", 1)
    assert (move.number, move.previous) == (1, None)
    job = job_row(services.database, claim.job_id)
    assert (job.state, job.progress) == ("succeeded", 1.0)
    assert job.result == {"model": "m", "version": 1, "report": {"strategy": "target_only"}}
    assert event_types(services.database, claim.job_id)[-1] == "succeeded"


def test_publishing_changes_nothing_when_the_claim_is_stale(services: Services):
    stale = claimed(services, queued(services, model="m"), lease=-1.0)
    with services.database.transaction() as session:
        lifecycle.lose(session, stale.job_id, stale.epoch, max_crashes=5)
    fresh = claimed(services, stale.job_id)
    target = dataset_row(services)
    assert not _publish(services, stale, target)
    assert _all(services, Model) == []
    assert _publish(services, fresh, target)
    assert not _publish(services, stale, target)
    assert [version.number for version in _all(services, ModelVersion)] == [1]


def test_publishing_changes_nothing_when_a_cancel_was_asked_for(services: Services):
    claim = claimed(services, queued(services, model="m"))
    with services.database.transaction() as session:
        lifecycle.request_cancel(session, claim.job_id)
    assert not _publish(services, claim, dataset_row(services))
    assert _all(services, ModelVersion) == []
    assert job_row(services.database, claim.job_id).state == "running"


def test_versions_are_numbered_without_gaps_when_many_publish_at_once(services: Services):
    target = dataset_row(services)
    claims = [claimed(services, queued(services, model="m")) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(lambda claim: _publish(services, claim, target), claims))
    assert sorted(version.number for version in _all(services, ModelVersion)) == [1, 2, 3, 4, 5, 6]
    (alias,) = _all(services, ModelAlias)
    assert (alias.number, alias.revision) == (6, 6)


def test_publishing_refuses_when_the_name_was_taken_by_another_modality(services: Services):
    _publish(services, claimed(services, queued(services, model="m")), dataset_row(services))
    claim = claimed(services, queued(services, model="m"))
    with pytest.raises(Conflict, match="is tabular classification by now"):
        _publish(services, claim, dataset_row(services, modality="text"))
    (model,) = _all(services, Model)
    assert model.last_number == 1


def test_publishing_stores_null_when_a_report_holds_nan(services: Services):
    claim = claimed(services, queued(services, model="m"))
    assert _publish(services, claim, dataset_row(services), report={"score": float("nan")})
    assert _all(services, ModelVersion)[0].report == {"score": None}


def test_publishing_a_meta_learner_names_its_sources_when_done(services: Services):
    claim = claimed(services, queued(services, kind="meta_train", queue="train", name="ml"))
    source = dataset_row(services)
    with services.database.transaction() as session:
        assert publish_meta_learner(
            session, claim, sources=[source], artifact=ARTIFACT, encoder="table", card={"gain": 0.1}
        )
    (learner,) = _all(services, MetaLearner)
    assert (learner.sources, learner.modality) == ([source.id], "tabular")
    assert job_row(services.database, claim.job_id).result == {"meta_learner": learner.id}


def test_publishing_predictions_names_the_download_when_done(services: Services):
    claim = claimed(services, queued(services, kind="batch_predict"))
    with services.database.transaction() as session:
        assert publish_predictions(session, claim, blob="b" * 64, rows=4, errors=1)
    result = job_row(services.database, claim.job_id).result
    assert result == {"rows": 4, "errors": 1, "download": f"/v1/jobs/{claim.job_id}/result", "blob": "b" * 64}
