"""Two transfer learners as one: where both may transfer, their answers are averaged instead of one being picked.

Held-out rows are few and both learners' answers alike, so picking the better one is mostly picking at random, and the
average errs less than either. Weights are a tempered posterior, as in `learning.stacking`. Both heads read the same
features, so the average is again one head.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learning.assembly import Scored
from learning.calibration import held_out_temperature
from learning.candidates import Candidate, FittedCandidate
from learning.heads import LinearHead
from learning.task import EVIDENCE
from learning.types import LabelledSet

#: No row counts worse than this probability of its class: one wild answer must not decide.
LEAST_PROBABILITY = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class Blend:
    """The `members`' outputs, each times its factor: its share, over its temperature in a classification."""

    members: tuple[Candidate, ...]
    shares: tuple[float, ...]
    factors: tuple[float, ...]

    @property
    def name(self) -> str:
        """That of the member with the largest share."""
        return self._leader.name

    @property
    def _leader(self) -> Candidate:
        return self.members[self.shares.index(max(self.shares))]

    def tuned(self, support: LabelledSet) -> "Blend":  # noqa: ARG002 - the members are
        return self

    def fit(self, support: LabelledSet) -> FittedCandidate:
        fits = {member.name: member.fit(support) for member in self.members}
        leader = fits[self.name]
        heads = [fit.pipeline.head for fit in fits.values()]
        head = LinearHead(
            weight_TF=_weighted([head.weight_TF for head in heads], self.factors),
            bias_T=_weighted([head.bias_T for head in heads], self.factors),
        )
        return replace(leader, pipeline=replace(leader.pipeline, head=head), problem=None)


def blend(candidates: Mapping[str, Candidate], scored: Mapping[str, Scored], support: LabelledSet) -> Blend:
    """The average of `candidates` (at least one), weighted by their held-out answers `scored`."""
    fits = [_log_likelihood(scored[name], support) for name in candidates]
    shares = tuple((EVIDENCE * torch.tensor(fits, dtype=torch.float64)).softmax(0).tolist())
    scales = [scored[name].temperature if support.classes else 1.0 for name in candidates]
    factors = tuple(share / scale for share, scale in zip(shares, scales, strict=True))
    return Blend(members=tuple(candidates.values()), shares=shares, factors=factors)


def score_blend(blended: Blend, scored: Mapping[str, Scored], support: LabelledSet) -> Scored:
    """What the average answers to rows that were held out of every member, without fitting anything again."""
    parts = [scored[member.name] for member in blended.members]
    answers = parts[0].held_out
    outputs_ST = _weighted([part.held_out.outputs_ST for part in parts], blended.factors)
    pipelines = []
    for fold in zip(*(part.held_out.pipelines for part in parts), strict=True):
        weight_TF = _weighted([pipeline.head.weight_TF for pipeline in fold], blended.factors)
        bias_T = _weighted([pipeline.head.bias_T for pipeline in fold], blended.factors)
        pipelines.append(replace(fold[0], head=LinearHead(weight_TF=weight_TF, bias_T=bias_T)))
    useful_S = parts[0].useful_S
    temperature = held_out_temperature(outputs_ST, support.labels_N, useful_S) if support.classes else 1.0
    held_out = replace(answers, outputs_ST=outputs_ST, pipelines=tuple(pipelines))
    return Scored(held_out=held_out, temperature=temperature, useful_S=useful_S)


def _weighted(tensors: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    return torch.stack([factor * tensor for factor, tensor in zip(factors, tensors, strict=True)]).sum(0)


def _log_likelihood(scored: Scored, support: LabelledSet) -> float:
    """Of the held-out rows, in nats; of a regression that of normal errors under their own variance."""
    rows_S = scored.useful_S
    outputs_ST, labels_S = scored.held_out.outputs_ST[rows_S], support.labels_N[rows_S]
    if not len(labels_S):
        return 0.0
    if support.classes:
        probs_S = (outputs_ST / scored.temperature).softmax(1).gather(1, labels_S[:, None])
        return float(probs_S.clamp_min(LEAST_PROBABILITY).log().sum())
    error = float((outputs_ST[:, 0] - labels_S.double()).square().mean())
    return -len(labels_S) / 2 * math.log(max(error, 1e-12))
