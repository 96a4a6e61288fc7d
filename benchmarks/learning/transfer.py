"""The library as a suite drives it: meta-train on sources, adapt to a target, score answers on rows never seen."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.learning.results import Bench
from learning.adaptation import Adaptation, adapt
from learning.class_names import ClassNames
from learning.config import STRATEGIES, GraftOptions, MetaTrainOptions
from learning.encoders.registry import Encoder
from learning.errors import UselessModel
from learning.featurisers import Centring
from learning.meta import MetaLearner, meta_train
from learning.types import Domain, Features, LabelledSet


def meta_options(bench: Bench, graft: GraftOptions | None = None) -> MetaTrainOptions:
    """The defaults, or of the short form next to no steps."""
    options = MetaTrainOptions(graft=graft or GraftOptions())
    return replace(options, steps=10, evaluation_episodes=10) if bench.quick else options


def learn(sources: Sequence[Domain], encoder: Encoder, options: MetaTrainOptions, *, seed: int = 0) -> MetaLearner:
    """A meta-learner of `sources`, whose rows are the encoder's features."""
    return meta_train(
        sources=sources,
        featuriser=Centring(),
        modality=encoder.modality,
        encoder=encoder.name,
        encoder_revision=encoder.revision,
        columns={},
        options=options,
        seed=seed,
        progress=_silent,
    )


def adapted(
    strategy: str,
    support: LabelledSet,
    encoder: Encoder,
    *,
    sources: Sequence[Domain] = (),
    learner: MetaLearner | None = None,
    seed: int = 0,
    class_names: ClassNames | None = None,
) -> Adaptation | None:
    """The strategy with its default options; None where the library refuses to publish what came out."""
    transfers = strategy != "target_only"
    try:
        return adapt(
            target=Domain(name="target", data=support),
            sources=sources if transfers else (),
            featuriser=Centring(),
            modality=encoder.modality,
            encoder=encoder.name,
            encoder_revision=encoder.revision,
            columns={},
            strategy=strategy,
            options=STRATEGIES[strategy](),
            meta_learner=learner if transfers else None,
            seed=seed,
            progress=_silent,
            class_names=class_names,
        )
    except UselessModel:
        return None


def accuracy(adaptation: Adaptation | None, test: LabelledSet) -> float:
    """In percent. A refused model counts as guessing."""
    if adaptation is None:
        return 100 / len(test.classes)
    answers = adaptation.learner.predict(test.inputs)
    assert answers.probs_QC is not None  # noqa: S101 - it is a classification
    place = torch.tensor([test.classes.index(name) for name in answers.classes])
    return hits(place[answers.probs_QC.argmax(1)], test.labels_N)


def hits(predicted_Q: Tensor, labels_Q: Tensor) -> float:
    """Accuracy in percent."""
    return 100 * float((predicted_Q == labels_Q).double().mean())


def rows(data: LabelledSet) -> Tensor:
    """(N, F) of a set of encoded examples."""
    assert isinstance(data.inputs, Features)  # noqa: S101 - it was encoded
    return data.inputs.matrix_NF


def _silent(_fraction: float, _phase: str) -> None:
    """No progress bar: the table is the output."""
