"""An artifact that does not fit into its project is not published, on both databases."""

import pytest

from app.dependencies import Services
from app.errors import Forbidden
from app.inference.training import MetaOutcome
from app.projects import service
from tests.app.adapted import table_outcome
from tests.jobs import claimed, dataset_row, queued
from worker.handlers import adapt, meta_train


def test_artifact_is_not_published_when_its_bytes_would_be_too_many(services: Services):
    target, outcome = dataset_row(services), table_outcome()
    claim = claimed(services, queued(services, model="m"))
    for room, is_refused in ((len(outcome.artifact) - 1, True), (len(outcome.artifact), False)):
        with services.database.transaction() as session:
            service.limit(session, "default", {"bytes": target.size_bytes + room})
        if is_refused:
            with pytest.raises(Forbidden, match="bytes stored") as error:
                adapt._publish(services, claim, target, outcome, {})
            assert error.value.code == "quota_bytes"
        else:
            assert adapt._publish(services, claim, target, outcome, {})


def test_meta_learner_is_not_published_when_its_bytes_would_be_too_many(services: Services):
    source = dataset_row(services)
    outcome = MetaOutcome(artifact=b"12345", encoder="table", card={})
    claim = claimed(services, queued(services, kind="meta_train", queue="train", name="ml"))
    with services.database.transaction() as session:
        service.limit(session, "default", {"bytes": source.size_bytes + 4})
    with pytest.raises(Forbidden, match="bytes stored"):
        meta_train._publish(services, claim, [source], outcome, {})
    with services.database.transaction() as session:
        service.limit(session, "default", {"bytes": source.size_bytes + 5})
    assert meta_train._publish(services, claim, [source], outcome, {})
