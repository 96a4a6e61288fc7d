"""Small synthetic transfer problems with known structure."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from learning.adaptation import Adaptation, adapt
from learning.config import STRATEGIES, EpisodeOptions, MetaTrainOptions
from learning.featurisers import Centring
from learning.meta import MetaLearner, meta_train
from learning.types import Domain, Features, LabelledSet, Task, labelled_set

WIDTH = 12
CLASSES = ("bad", "fine", "good")


def blobs(seed: int, n_per_class: int, *, shift: float = 0.5, classes: Sequence[str] = CLASSES) -> LabelledSet:
    """Classes around fixed means that all domains share; a domain moves everything by its own `shift`."""
    generator = torch.Generator().manual_seed(seed)
    means_CF = 2.0 * torch.randn(len(classes), WIDTH, generator=torch.Generator().manual_seed(99))
    move_F = shift * torch.randn(WIDTH, generator=generator)
    labels = [name for name in classes for _ in range(n_per_class)]
    rows = means_CF.repeat_interleave(n_per_class, 0) + 1.5 * torch.randn(len(labels), WIDTH, generator=generator)
    return labelled_set(Features(matrix_NF=rows + move_F), labels, "classification")


def slopes(seed: int, n: int) -> LabelledSet:
    """A linear regression that all domains share, with an offset of their own."""
    generator = torch.Generator().manual_seed(seed)
    slope_F = torch.randn(WIDTH, generator=torch.Generator().manual_seed(98))
    rows = torch.randn(n, WIDTH, generator=generator)
    noise = 0.3 * torch.randn(n, generator=generator) + torch.randn((), generator=generator)
    return labelled_set(Features(matrix_NF=rows), (rows @ slope_F + noise).tolist(), "regression")


def sources(task: Task = "classification", n_domains: int = 4) -> list[Domain]:
    data = [blobs(seed, 30) if task == "classification" else slopes(seed, 80) for seed in range(1, n_domains + 1)]
    return [Domain(name=f"source{i}", data=d) for i, d in enumerate(data)]


def noisy(domain: Domain, generator: torch.Generator) -> Domain:
    """Harder to learn."""
    rows = features(domain.data).matrix_NF
    moved = Features(matrix_NF=rows + 3 * torch.randn(rows.shape, generator=generator))
    return replace(domain, data=replace(domain.data, inputs=moved))


def quick_options(**changes: Any) -> MetaTrainOptions:
    episode = EpisodeOptions(max_shot=8, n_query=12, max_source_rows=60)
    defaults: dict[str, Any] = {"steps": 20, "projection_width": 4, "evaluation_episodes": 20, "episode": episode}
    return MetaTrainOptions(**(defaults | changes))


def quick_meta_learner(task: Task = "classification", seed: int = 0, **changes: Any) -> MetaLearner:
    return meta_train(
        sources=sources(task),
        featuriser=Centring(),
        modality="text",
        encoder="none",
        encoder_revision="0",
        columns={},
        options=quick_options(**changes),
        seed=seed,
        progress=lambda _fraction, _phase: None,
    )


def run(
    strategy: str,
    target: LabelledSet,
    *,
    using: Sequence[Domain] = (),
    meta_learner: MetaLearner | None = None,
    seed: int = 0,
    **options: Any,
) -> Adaptation:
    return adapt(
        target=Domain(name="target", data=target),
        sources=list(using),
        featuriser=Centring(),
        modality="text",
        encoder="none",
        encoder_revision="0",
        columns={},
        strategy=strategy,
        options=STRATEGIES[strategy](**options),
        meta_learner=meta_learner,
        seed=seed,
        progress=lambda _fraction, _phase: None,
    )


def probabilities(adaptation: Adaptation, queries: Features) -> Tensor:
    """(Q, C) in the order of the learner's classes."""
    answers = adaptation.learner.predict(queries)
    assert answers.probs_QC is not None
    return answers.probs_QC


def accuracy(adaptation: Adaptation, data: LabelledSet) -> float:
    answers = adaptation.learner.predict(data.inputs)
    assert answers.probs_QC is not None
    predicted = [answers.classes[i] for i in answers.probs_QC.argmax(1).tolist()]
    truth = [data.classes[y] for y in data.labels_N.tolist()]
    return sum(map(str.__eq__, predicted, truth)) / len(data)


def features(data: LabelledSet) -> Features:
    assert isinstance(data.inputs, Features)
    return data.inputs
