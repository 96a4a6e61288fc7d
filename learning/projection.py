"""Where the metric comes from: discriminant directions of the sources, cross-fitted over domains.

On the domain it was fitted to any metric looks better than it is, and episodes of that domain would teach to trust it
blindly. So an episode whose target is domain d uses the metric fitted without d; the finished meta-learner uses all.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from learning.sources import SourceBank


def shrunk_covariance(centred_NF: Tensor) -> Tensor:
    """(F, F) covariance of centred rows, shrunk toward a multiple of the identity (OAS: Chen et al. 2010, eq. 23)."""
    n_rows, width = centred_NF.shape
    covariance_FF = centred_NF.T @ centred_NF / n_rows
    trace, squares = covariance_FF.trace(), covariance_FF.square().sum()
    numerator = (1 - 2 / width) * squares + trace.square()
    denominator = (n_rows + 1 - 2 / width) * (squares - trace.square() / width)
    shrinkage = (numerator / denominator.clamp_min(1e-12)).clamp(0.01, 1.0)
    identity_FF = torch.eye(width, dtype=torch.float64)
    return (1 - shrinkage) * covariance_FF + shrinkage * trace.clamp_min(1e-9) / width * identity_FF


def initial_projection(bank: SourceBank, rows_N: Tensor, width: int) -> Tensor:
    """(P, F) discriminant directions (LDA) of the bank's rows `rows_N` (bool): where metric learning starts.

    Between-class scatter is that of each domain's class means around its own mean, within-class that of rows around
    their class mean in their domain, so that a direction which only tells domains apart does not count. What classes
    differ by in every domain comes first. Regression: principal axes.
    """
    features_NF = bank.features_NF[rows_N].double()
    group_N = (bank.domain_N * max(len(bank.classes), 1) + bank.labels_N)[rows_N]
    groups, inverse_N = group_N.unique(return_inverse=True)
    counts_G = torch.bincount(inverse_N).double()
    means_GF = torch.zeros(len(groups), features_NF.shape[1], dtype=torch.float64)
    means_GF = means_GF.index_add(0, inverse_N, features_NF) / counts_G[:, None]
    within_NF = features_NF - means_GF[inverse_N]
    if bank.classification:
        domain_G = groups // len(bank.classes)
        domain_means = [means_GF[domain_G == domain].mean(0) for domain in domain_G]
        between_CF = means_GF - torch.stack(domain_means)
    else:
        between_CF = within_NF
    factor_FF = torch.linalg.cholesky(shrunk_covariance(within_NF))
    whitened_FC = torch.linalg.solve_triangular(factor_FF, between_CF.T, upper=False)
    directions_FP = torch.linalg.svd(whitened_FC, full_matrices=False).U[:, :width]
    projection_PF: Tensor = torch.linalg.solve_triangular(factor_FF.T, directions_FP, upper=True).T
    spread = (features_NF @ projection_PF.T).square().sum(1).mean().sqrt().clamp_min(1e-6)
    return projection_PF / spread


def cross_fitted(bank: SourceBank, rows_N: Tensor, width: int) -> Tensor:
    """(D, P, F) for each domain the projection of `rows_N` (bool) without that domain's rows.

    With a single domain nothing would remain: then `rows_N` itself has to be kept apart from the episodes.
    """
    projections = []
    for domain in range(len(bank.names)):
        others_N = rows_N & (bank.domain_N != domain)
        projection_PF = initial_projection(bank, others_N if others_N.any() else rows_N, width)
        # Fewer domains have fewer directions; a row of zeros is a coordinate that says nothing.
        projections.append(F.pad(projection_PF, (0, 0, 0, width - len(projection_PF))))
    return torch.stack(projections)
