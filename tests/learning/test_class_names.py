"""Class names as rows of the support: used where they say something, left out where they do not."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from learning.adaptation import adapt
from learning.candidates import TargetOnly
from learning.class_names import ClassNames, Named, spoken, with_names
from learning.config import AutoOptions, MetaTrainOptions, TargetOnlyOptions
from learning.featurisers import Centring
from learning.meta import meta_train
from learning.types import Domain, Features, LabelledSet

N_CLASSES, WIDTH = 12, 32


def problem(shots: int, seed: int = 0) -> tuple[LabelledSet, LabelledSet, Features]:
    """Support, queries, and names that lie near their classes but in another place as a whole."""
    generator = torch.Generator().manual_seed(seed)
    means_CF = torch.randn(N_CLASSES, WIDTH, generator=generator)
    classes = tuple(f"topic_{c}" for c in range(N_CLASSES))

    def rows(per_class: int) -> LabelledSet:
        labels = torch.arange(N_CLASSES).repeat_interleave(per_class)
        noise = 1.6 * torch.randn(len(labels), WIDTH, generator=generator)
        return LabelledSet(inputs=Features(matrix_NF=means_CF[labels] + noise), labels_N=labels, classes=classes)

    names = means_CF + 0.5 * torch.randn(N_CLASSES, WIDTH, generator=generator) + 7.0
    return rows(shots), rows(20), Features(matrix_NF=names)


def named(names: Features, classes: tuple[str, ...]) -> Named:
    rows = ClassNames(row_of={name: row for row, name in enumerate(classes)}, inputs=names)
    alone = TargetOnly(featuriser=Centring(), options=TargetOnlyOptions(regularisation=0.05))
    return Named(candidate=alone, names=rows, graft="")


def accuracy(candidate: Named | TargetOnly, support: LabelledSet, queries: LabelledSet) -> float:
    answers = candidate.tuned(support).fit(support).pipeline.outputs(queries.inputs).argmax(1)
    return float((answers == queries.labels_N).double().mean())


@pytest.mark.parametrize(("shots", "gain"), [(1, 0.1), (3, 0.02)])
def test_names_that_speak_help_most_at_few_shots(shots: int, gain: float):
    support, queries, names = problem(shots)
    candidate = named(names, support.classes)
    assert isinstance(candidate.candidate, TargetOnly)
    assert accuracy(candidate, support, queries) > accuracy(candidate.candidate, support, queries) + gain


def test_names_that_say_nothing_are_left_out():
    support, _, names = problem(2)
    shuffled = Features(matrix_NF=names.matrix_NF.roll(1, 0))
    tuned = named(shuffled, support.classes).tuned(support)
    assert isinstance(tuned, TargetOnly)


def test_names_are_moved_to_where_the_rows_lie_in_every_view():
    support, _, names = problem(2)
    assert isinstance(support.inputs, Features)
    views = Features(matrix_NF=support.inputs.matrix_NF, grafted={"g": support.inputs.matrix_NF + 3})
    both = Features(matrix_NF=names.matrix_NF, grafted={"g": 2 * names.matrix_NF})
    rows = ClassNames(row_of={name: row for row, name in enumerate(support.classes)}, inputs=both)
    found = with_names(LabelledSet(inputs=views, labels_N=support.labels_N, classes=support.classes), rows)
    assert isinstance(found.inputs, Features)
    for graft in ("", "g"):
        rows_NF = found.inputs.under(graft)
        own, added = rows_NF[: len(support)], rows_NF[len(support) :]
        torch.testing.assert_close(added.mean(0), own.mean(0), rtol=0, atol=1e-4)
        assert added.shape[0] == N_CLASSES


def test_names_are_read_as_words():
    assert spoken("card_arrival") == "card arrival"
    assert spoken("lostOrStolen-card") == "lost Or Stolen card"
    assert spoken("__") == "__"


def test_auto_uses_names_at_one_example_per_class():
    """No row can be held out without losing its class, so the card and the names themselves have to do."""
    sources = []
    for i in range(3):
        rows, _, _ = problem(8, seed=20 + i)
        renamed = tuple(f"other_{i}_{name}" for name in rows.classes)
        data = LabelledSet(inputs=rows.inputs, labels_N=rows.labels_N, classes=renamed)
        sources.append(Domain(name=f"source {i}", data=data))
    options = MetaTrainOptions(steps=20, projection_width=8, evaluation_episodes=20, evaluation_shots=(1, 4))
    common: dict[str, Any] = {"modality": "text", "encoder": "any", "encoder_revision": "", "columns": {}, "seed": 0}
    learner = meta_train(
        sources=sources, featuriser=Centring(), options=options, progress=lambda _done, _phase: None, **common
    )
    # Of made-up features no metric transfers; what is asked here is whether a card that promises something is heard.
    promising = [
        entry | {name: entry[name] | {"gain": {"value": 0.05, "interval": (0.03, 0.07), "deviation": 0.04}}}
        for entry in learner.card["episodes"]
        for name in ("metric",)
    ]
    learner = replace(learner, card=learner.card | {"episodes": promising})
    support, _, names = problem(1)
    row_of = {name: row for row, name in enumerate(support.classes)}
    chosen = []
    for class_names in (ClassNames(row_of=row_of, inputs=names), None):
        adapted = adapt(
            target=Domain(name="t", data=support), sources=sources, featuriser=Centring(), strategy="auto",
            options=AutoOptions(candidates=("target_only", "metric"), guard_standard_errors=1.0), meta_learner=learner,
            progress=lambda _done, _phase: None, class_names=class_names, **common,
        )  # fmt: skip
        chosen.append(adapted.report["strategy"])
    assert chosen == ["metric", "target_only"]
