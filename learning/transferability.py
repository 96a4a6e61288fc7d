"""Source choice: how much each source's knowledge helps to explain a target support, and how far apart the inputs lie.

All domains share one encoder, so its features alone cannot tell sources apart. What differs is the head a source has
learned on them. It enters a Gaussian model of the target's labels, and a source scores the log evidence it adds over
the same model without it. That is LogME (You et al. 2021, eq. 2-4) with three deviations: the prior mean of the weights
is the source's head where it knows target classes, so that a source of flipped labels scores below none at all; where
it knows none, half of their prior variance lies in the directions of its head, which is all that such labels tell; and
all outputs share the two variances, which one row per class can still tell.

The distance is the energy distance of the inputs (Székely & Rizzo 2013), which needs two rows and no covariance.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from learning.heads import BIAS_PENALTY
from learning.sources import LabelScale, SourceBank, bank_task, stratified_subsample

#: Rows of the target and of a source that are looked at; more change a score by less than its noise.
MAX_ROWS = 256
#: Signal-to-noise ratios of the Gaussian model that are tried.
_RATIOS = torch.logspace(-2.0, 3.0, 21, dtype=torch.float64)
#: Pseudo-rows behind the noise, and their variance relative to guessing's: few rows must not look free of noise.
_PSEUDO_ROWS, _PSEUDO_VARIANCE = 2.0, 0.5
#: Nats by which a source of wholly different inputs starts behind one of the same inputs. Where it knows no class of
#: the target its inputs say more about it than its labels do.
DISTANCE_NATS, DISTANCE_NATS_DISJOINT = 8.0, 100.0

MEASURE = "log_evidence_gain"


@dataclass(frozen=True, kw_only=True)
class SourceScore:
    """`score`: nats of evidence per target row over no source at all; `distance` of the inputs in [0, 1]; rank 1 is
    the best source."""

    score: float
    distance: float
    rank: int


def rank_sources(
    bank: SourceBank, support_SF: Tensor, support_targets_ST: Tensor, scale: LabelScale, classes: tuple[str, ...]
) -> tuple[SourceScore, ...]:
    """A score for each of the bank's D domains, in their order.

    `support_targets_ST` as in `bank_task`. The rank orders the sources by their log posterior: the evidence of all S
    rows, plus a log prior of -`DISTANCE_NATS` times the distance. So the inputs count at a few rows and the labels at
    a hundred. Any two rows will do, and the label sets may be disjoint.
    """
    kept_S = _few(support_targets_ST.argmax(1))  # one stratum for a regression
    support_SF, targets_ST = support_SF[kept_S].double(), support_targets_ST[kept_S].double()
    task = bank_task(bank, support_SF, targets_ST, classes, scale).task
    guess_T = targets_ST.mean(0) if not classes else torch.full((len(classes),), 1 / len(classes)).double()
    plain_SS = support_SF @ support_SF.T
    nothing = _log_evidence(plain_SS, targets_ST - guess_T, guess_T)
    scores, distances = [], []
    for d in range(len(bank.names)):
        own_N = (bank.domain_N == d).nonzero()[:, 0]
        features_NF = bank.features_NF[own_N].double()
        mean_ST, kernel_SS = guess_T, plain_SS
        if task.known_ED[0, d]:
            mean_ST = support_SF @ task.prior_EDTF[0, d].T + task.prior_bias_EDT[0, d]
        else:
            kernel_SS = _source_kernel(support_SF, features_NF, bank.head_DTF[d][bank.knows_DT[d]])
        scores.append((_log_evidence(kernel_SS, targets_ST - mean_ST, guess_T) - nothing) / len(kept_S))
        distances.append(energy_distance(support_SF, features_NF[_few(bank.labels_N[own_N])]))
    nats = [DISTANCE_NATS if known else DISTANCE_NATS_DISJOINT for known in task.known_ED[0].tolist()]
    posterior = [len(kept_S) * s - weight * far for s, weight, far in zip(scores, nats, distances, strict=True)]
    order = sorted(range(len(posterior)), key=lambda d: -posterior[d])
    return tuple(
        SourceScore(score=score, distance=far, rank=order.index(d) + 1)
        for d, (score, far) in enumerate(zip(scores, distances, strict=True))
    )


def _few(labels_N: Tensor) -> Tensor:
    """At most `MAX_ROWS` rows, class by class; the same ones at every call."""
    return stratified_subsample(labels_N, MAX_ROWS, torch.Generator().manual_seed(0))


def energy_distance(first_MF: Tensor, second_NF: Tensor) -> float:
    """1 - (E|X - X'| + E|Y - Y'|) / 2 E|X - Y|, over distinct rows: 0 for the same distribution, 1 for two points."""
    between = torch.cdist(first_MF, second_NF).mean()
    if float(between) < 1e-9:
        return 0.0
    within = sum(torch.cdist(rows, rows).sum() / max(len(rows) * (len(rows) - 1), 1) for rows in (first_MF, second_NF))
    return float((1 - within / (2 * between)).clamp(0.0, 1.0))


def _source_kernel(support_SF: Tensor, features_NF: Tensor, head_CF: Tensor) -> Tensor:
    """(S, S) covariance of the labels where half of the weights' variance lies in the directions of `head_CF`.

    The scale is the source's own: a head that does not tell the target's rows apart has less to explain them with.
    """
    total = features_NF.square().sum() / (features_NF @ head_CF.T).square().sum().clamp_min(1e-12)
    outputs_SC = support_SF @ head_CF.T
    return 0.5 * (support_SF @ support_SF.T + total * outputs_SC @ outputs_SC.T)


def _log_evidence(kernel_SS: Tensor, residual_ST: Tensor, guess_T: Tensor) -> float:
    """max over signal and noise of log p(residuals), in nats; the noise under a weak prior (see `_PSEUDO_ROWS`)."""
    n_rows, n_outputs = residual_ST.shape
    values_S, vectors_SS = torch.linalg.eigh(kernel_SS + 1 / BIAS_PENALTY)
    rotated_ST = vectors_SS.T @ residual_ST
    spread_KS = 1 + _RATIOS[:, None] * values_S.clamp_min(0)
    squares_K = (rotated_ST.square().sum(1) / spread_KS).sum(1)
    # Guessing misses a one-hot row by 1 - 1/T in all, and a standardised label by 1.
    guess_error = 1 - float(guess_T.square().sum()) if n_outputs > 1 else 1.0
    prior_squares = _PSEUDO_ROWS * _PSEUDO_VARIANCE * guess_error
    noise_K = (squares_K + prior_squares) / ((n_rows + _PSEUDO_ROWS) * n_outputs)
    log_K = -0.5 * n_outputs * (n_rows + _PSEUDO_ROWS) * (noise_K.log() + math.log(2 * math.pi) + 1)
    return float((log_K - 0.5 * n_outputs * spread_KS.log().sum(1)).max())
