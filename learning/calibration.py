"""From held-out answers to honest ones: temperature, prediction sets, intervals, and a score for unfamiliar queries."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from learning.distances import distances
from learning.intervals import interpolated_quantile

#: Temperatures that are tried; ridge outputs live on a scale of 0..1 and want small ones.
_TEMPERATURES = torch.logspace(-2.0, 1.0, 61, dtype=torch.float64)
#: Precision of the prior on log temperature: few held-out rows must not make a model sure of itself.
PRIOR_STRENGTH = 4.0
#: Temperature relative to how far a row's outputs spread over the classes, as few-shot tasks on text features had it:
#: the same for any larger number of classes, while two classes may be told apart well or not at all.
_RELATIVE_TEMPERATURE, _RELATIVE_TEMPERATURE_OF_TWO = 0.8, 3.0


def unknown_temperature(outputs_NC: Tensor) -> float:
    """The temperature to expect of outputs before any held-out label is seen, from their scale alone.

    A row's spread is the median absolute deviation over its classes, which a few classes without examples (held out
    one-shot ones) do not move. At most 1, as of logits that say what they mean: small outputs are often too modest, but
    large ones were learned from rows that are easily told apart. 1 where there is no spread.
    """
    n_rows, n_classes = outputs_NC.shape
    if n_rows == 0:
        return 1.0
    middle_N1 = outputs_NC.double().quantile(0.5, dim=1, keepdim=True)
    spread_N = (outputs_NC - middle_N1).abs().quantile(0.5, dim=1)
    spread = float(spread_N.square().mean().sqrt())
    if spread <= 0:
        return 1.0
    relative = max(_RELATIVE_TEMPERATURE, _RELATIVE_TEMPERATURE_OF_TWO * 2 / n_classes)
    return min(max(relative * spread, float(_TEMPERATURES[0])), 1.0)


def fit_temperature(
    outputs_NC: Tensor, labels_N: Tensor, *, prior: float = 1.0, strength: float = PRIOR_STRENGTH
) -> float:
    """The temperature t of softmax(outputs / t) with the best held-out likelihood (Guo et al. 2017).

    A normal prior on log t around log `prior`, of precision `strength`, keeps a handful of lucky rows from giving
    overconfident answers. With no rows the prior itself.
    """
    if outputs_NC.shape[0] == 0:
        return prior
    scaled_KNC = outputs_NC.double()[None] / _TEMPERATURES[:, None, None]
    log_probs_KN = F.log_softmax(scaled_KNC, dim=-1).gather(2, labels_N[None, :, None].expand(len(scaled_KNC), -1, 1))
    loss_K = -log_probs_KN.sum((1, 2)) + strength * (_TEMPERATURES / prior).log().square() / 2
    return float(_TEMPERATURES[loss_K.argmin()])


def held_out_temperature(outputs_SC: Tensor, labels_S: Tensor, useful_S: Tensor | None = None) -> float:
    """`fit_temperature` on the rows of `useful_S` (None: all), its prior from the scale of all of them."""
    rows = slice(None) if useful_S is None else useful_S
    return fit_temperature(outputs_SC[rows], labels_S[rows], prior=unknown_temperature(outputs_SC))


def expected_calibration_error(probs_NC: Tensor, labels_N: Tensor, *, n_bins: int = 10) -> float:
    """Mean gap between confidence and accuracy over equal-width confidence bins (Naeini et al. 2015), in 0..1."""
    if len(labels_N) == 0:
        return math.nan
    confidence_N, predicted_N = probs_NC.max(1)
    correct_N = (predicted_N == labels_N).double()
    bin_N = (confidence_N * n_bins).long().clamp_max(n_bins - 1)
    gaps = [
        (confidence_N[bin_N == b].mean() - correct_N[bin_N == b].mean()).abs() * (bin_N == b).double().mean()
        for b in bin_N.unique()
    ]
    return float(torch.stack(gaps).sum())


def set_threshold(probs_NC: Tensor, labels_N: Tensor, coverage: float) -> float:
    """Classes with probability at least this form the prediction set (LAC, Sadinle et al. 2019); 0: all classes.

    The quantile of the held-out rows' true classes is interpolated (see `interpolated_quantile`): rounded up to the
    next row, 16 rows would put the threshold at the least of them and cover 94 % for 90.
    """
    true_N = probs_NC.gather(1, labels_N[:, None])[:, 0]
    # The score is minus the probability, not 1 - it: rounding must not push the last row out of its own set.
    quantile = float(interpolated_quantile(-true_N, coverage))
    return 0.0 if math.isinf(quantile) else -quantile


def prediction_sets(probs_QC: Tensor, threshold: float) -> Tensor:
    """(Q, C) bool. The most probable class is always in: an empty set tells a user nothing."""
    likeliest_QC = torch.arange(probs_QC.shape[1], device=probs_QC.device) == probs_QC.argmax(1, keepdim=True)
    return (probs_QC >= threshold) | likeliest_QC


#: Share of rows of the known kind that score below this very number.
_USUAL = 0.95
#: Spreads from the typical distance to where the score is `_USUAL`.
_SPREADS_TO_USUAL = 3.0 + math.log(_USUAL / (1 - _USUAL))


@dataclass(frozen=True, kw_only=True, eq=False)
class Familiarity:
    """Distance to the nearest known row, on the scale of the known rows' own nearest distances."""

    reference_NF: Tensor
    typical: float
    spread: float

    def ood(self, features_QF: Tensor) -> Tensor:
        """(Q,) in [0, 1]: .05 at the typical distance, .5 at three spreads beyond it."""
        nearest_Q = distances(features_QF, self.reference_NF, order=2).amin(1)
        return torch.sigmoid((nearest_Q - self.typical) / self.spread - 3.0)


def fit_familiarity(features_NF: Tensor) -> Familiarity:
    """From rows the learner was fitted on; each row's nearest *other* row, copies apart, tells what is usual.

    The score is .95 at the distance that a row of the same kind exceeds once in twenty, so that about as many of those
    are flagged. Few rows do not tell it, and in many dimensions distances are all alike: it is never taken nearer than
    a tenth beyond the typical distance. With a single row (or only copies of one) the scale of the features stands in.
    """
    distinct_NF = features_NF.unique(dim=0)
    distances_NN = distances(distinct_NF, distinct_NF, order=2)
    nearest_N = distances_NN.masked_fill(distances_NN <= 1e-6, math.inf).amin(1)
    nearest_N = nearest_N[torch.isfinite(nearest_N)]
    if len(nearest_N) < 2:
        scale = max(1.0, float(features_NF.norm(dim=1).mean()))
        return Familiarity(reference_NF=features_NF.float(), typical=scale, spread=scale / 4)
    typical = float(nearest_N.median())
    usual = float(interpolated_quantile(nearest_N, _USUAL))
    margin = 0.1 * typical
    if math.isinf(usual):
        usual, margin = float(nearest_N.max()), 0.15 * typical
    return Familiarity(
        reference_NF=features_NF.float(), typical=typical, spread=max(usual - typical, margin) / _SPREADS_TO_USUAL
    )
