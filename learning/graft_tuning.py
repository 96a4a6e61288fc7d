"""LP-FT of the graft on the target itself: the head comes first, then head and graft together at a low rate.

Tuning an encoder from an untrained head destroys what it knows (Kumar et al. 2022), so it starts from a fitted one.
With a few rows it seldom pays: a third of the rows is held out, the tuned graft must beat what it would replace there,
and only then is it trained on all of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from learning.base_learner import Pipeline
from learning.calibration import fit_temperature
from learning.candidates import Candidate
from learning.dealing import deal_folds
from learning.grafts import Graft, Graftable, mixed, zero_graft
from learning.guard import Gain, Prior, paired_gain, row_scores
from learning.meta import MetaLearner
from learning.transfer_candidates import Init
from learning.types import Features, LabelledSet

#: Fewer rows cannot tell whether tuning helps.
MIN_ROWS = 48
#: One fold of this many is held out.
FOLDS = 3
LOOKS = 3
BATCH_ROWS = 16
#: The head was fitted to the rows already: it moves this many times slower than the graft.
HEAD_RATE = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetEncoding:
    """How the target's rows can be encoded again: `inputs` raw, in the order of the target's rows."""

    encoder: Graftable
    inputs: Sequence[Any]
    threads: int = 1

    def select(self, rows: Sequence[int]) -> "TargetEncoding":
        return TargetEncoding(encoder=self.encoder, inputs=[self.inputs[i] for i in rows], threads=self.threads)


@dataclass(frozen=True, kw_only=True, eq=False)
class TunedGraft:
    """`candidate` and `support` read the tuned `graft`. `outputs_ST` are held-out answers of the rows `held_S` (bool).

    `gain` is what tuning won there over the candidate it replaces, `held_out` the pipeline that answered them.
    """

    graft: Graft
    candidate: Init
    support: LabelledSet
    outputs_ST: Tensor
    held_S: Tensor
    held_out: Pipeline
    gain: Gain
    steps: int


def tune_graft(
    init: Init,
    replaced: Candidate,
    support: LabelledSet,
    encoding: TargetEncoding,
    start: Graft | None,
    *,
    steps: int,
    lr: float,
    generator: torch.Generator,
    progress: Callable[[float], None],
) -> TunedGraft | None:
    """The graft fine-tuned from `start` (None: the rootstock) with `init`'s head, where it beats `replaced`; else None.

    `encoding` has the raw inputs in the order of `support`. The number of steps is chosen on the held-out third.
    """
    if len(support) < MIN_ROWS or not support.classes:
        return None
    held_S = deal_folds(support.labels_N, FOLDS, generator) == 0
    kept, held = (~held_S).nonzero()[:, 0], held_S.nonzero()[:, 0]
    train, test = support.select(kept), support.select(held)
    before = _row_scores(replaced.fit(train).pipeline, test)
    with _threads(encoding.threads):
        tuner = _Tuner(init.fit(train).pipeline, encoding.select(kept.tolist()), train.labels_N, start, lr, generator)
        # The first look is at the start itself, which may be a mixture that the candidate does not wear yet.
        looks = [
            (step, tuner.graft, _worn(init, tuner.graft, train, encoding.select(kept.tolist())))
            for step in tuner.run(steps, looks=LOOKS, progress=lambda done: progress(done / 2))
        ]
        tried = [_try(look, test, encoding.select(held.tolist())) for look in looks]
    after, outputs_HT, pipeline, step = max(tried, key=lambda found: float(found[0].mean()))
    gain = paired_gain(after, before, Prior(), worse_than_chance=False)
    if gain.evidence is None or gain.error is None or gain.evidence <= gain.error:
        return None
    with _threads(encoding.threads):
        tuner = _Tuner(init.fit(support).pipeline, encoding, support.labels_N, start, lr, generator)
        for _ in tuner.run(step, looks=1, progress=lambda done: progress(0.5 + done / 2)):
            pass
        candidate, worn = _worn(init, tuner.graft, support, encoding)
    outputs_ST = torch.zeros(len(support), outputs_HT.shape[1], dtype=torch.float64)
    outputs_ST[held] = outputs_HT
    return TunedGraft(
        graft=tuner.graft,
        candidate=candidate,
        support=worn,
        outputs_ST=outputs_ST,
        held_S=held_S,
        held_out=pipeline,
        gain=gain,
        steps=step,
    )


def mixed_start(learner: MetaLearner, domain_weights: Mapping[str, float]) -> Graft | None:
    """The meta-learner's graft, moved toward the sources' own by their weights; sources without one keep the common."""
    if learner.graft is None or not learner.source_grafts:
        return learner.graft
    weights = {name: domain_weights.get(name, 0.0) for name in learner.source_grafts}
    common = 1.0 - sum(weights.values())
    return mixed([learner.graft, *learner.source_grafts.values()], [common, *weights.values()]).stored()


def _try(
    look: tuple[int, Graft, tuple[Init, LabelledSet]], test: LabelledSet, encoding: TargetEncoding
) -> tuple[Tensor, Tensor, Pipeline, int]:
    """Held-out row scores, outputs, the pipeline behind them and the step, of a graft at one look."""
    step, graft, (candidate, worn) = look
    pipeline = candidate.fit(worn).pipeline
    held = _encoded(test, graft, encoding)
    return _row_scores(pipeline, held), pipeline.outputs(held.inputs), pipeline, step


def _row_scores(pipeline: Pipeline, test: LabelledSet) -> Tensor:
    outputs_QT = pipeline.outputs(test.inputs)
    return row_scores(outputs_QT, test, fit_temperature(outputs_QT, test.labels_N))


def _worn(init: Init, graft: Graft, rows: LabelledSet, encoding: TargetEncoding) -> tuple[Init, LabelledSet]:
    """The candidate and the rows as they read features under `graft`."""
    return init.wearing(graft.digest), _encoded(rows, graft, encoding)


def _encoded(rows: LabelledSet, graft: Graft, encoding: TargetEncoding) -> LabelledSet:
    matrix_NF = encoding.encoder.grafted(graft).encode(encoding.inputs)
    assert isinstance(rows.inputs, Features)  # noqa: S101 - only encoded inputs have a graft
    inputs = Features(matrix_NF=rows.inputs.matrix_NF, grafted={**rows.inputs.grafted, graft.digest: matrix_NF})
    return LabelledSet(inputs=inputs, labels_N=rows.labels_N, classes=rows.classes)


class _Tuner:
    """Head and graft on one set of rows, by Adam on the cross-entropy."""

    def __init__(
        self, pipeline: Pipeline, encoding: TargetEncoding, labels_S: Tensor, start: Graft | None, lr: float,
        generator: torch.Generator,
    ) -> None:  # fmt: skip
        points = encoding.encoder.graft_points()
        self._encoder = encoding.encoder.grafted(zero_graft(points))
        self._prepared = encoding.encoder.prepare(encoding.inputs)
        self._pipeline, self._labels_S, self._lr, self._generator = pipeline, labels_S, lr, generator
        self._rootstock = {name: value.detach().clone() for name, value in points.items()}
        begin = start or zero_graft(points)
        self._offsets = {
            name: begin.offsets[name].to(value.device).clone().requires_grad_() for name, value in points.items()
        }
        self._weight_TF = pipeline.head.weight_TF.clone().requires_grad_()
        self._bias_T = pipeline.head.bias_T.clone().requires_grad_()

    @property
    def graft(self) -> Graft:
        return Graft(offsets=self._offsets).stored()

    def run(self, steps: int, *, looks: int, progress: Callable[[float], None]) -> Iterator[int]:
        """Trains for `steps`; stops before the first and at `looks` of them to be looked at."""
        yield 0
        groups = [
            {"params": list(self._offsets.values()), "lr": self._lr},
            {"params": [self._weight_TF, self._bias_T], "lr": HEAD_RATE * self._lr},
        ]
        optimiser = torch.optim.Adam(groups)
        stops = {round(steps * (i + 1) / looks) for i in range(looks)}
        for step in range(1, steps + 1):
            rows = torch.randperm(len(self._labels_S), generator=self._generator)[:BATCH_ROWS]
            optimiser.zero_grad()
            F.cross_entropy(self._outputs(rows.tolist()), self._labels_S[rows]).backward()
            optimiser.step()
            progress(step / steps)
            if step in stops:
                yield step

    def _outputs(self, rows: list[int]) -> Tensor:
        values = {name: value + self._offsets[name] for name, value in self._rootstock.items()}
        matrix_BF = self._encoder.differentiate([self._prepared[i] for i in rows], values).cpu()
        inputs = Features.only(matrix_BF, self._pipeline.featuriser.graft)
        embedded_BF = self._pipeline.embedded(self._pipeline.featuriser.transform(inputs).double())
        return embedded_BF @ self._weight_TF.T + self._bias_T


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
