"""Prototypical networks (Snell et al. 2017) on cached features: classes by distance to their mean embedding."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.learning.baselines.episodic import Scaling, best_state, identity_layer, prepare
from benchmarks.learning.baselines.problem import Problem
from learning.heads import one_hot
from learning.inner_loop import VectorTasks, support_loss
from learning.sources import SourceBank

LR = 3e-5
STEPS = 300

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class ProtoNet:
    network: nn.Module
    parameters: Parameters
    scaling: Scaling

    def __call__(self, problem: Problem, query_QF: Tensor) -> Tensor:
        """(Q, C) probabilities; the sources were used in meta-training."""
        support_ESF, query_EQF = self.scaling(problem.support_SF)[None], self.scaling(query_QF)[None]
        targets_EST = one_hot(problem.support_labels_S, problem.n_classes).float()[None]
        with torch.no_grad():
            logits_QC = proto_logits(self.network, self.parameters, support_ESF, targets_EST, query_EQF)[0]
            return logits_QC.softmax(-1)


def proto_logits(
    network: nn.Module, parameters: Parameters, support_ESF: Tensor, targets_EST: Tensor, query_EQF: Tensor
) -> Tensor:
    """(E, Q, C) minus the squared distance between a query and a class's mean embedding (eq. 1 and 2), up to scale."""
    support_ESP: Tensor = functional_call(network, dict(parameters), (support_ESF,))
    query_EQP: Tensor = functional_call(network, dict(parameters), (query_EQF,))
    prototypes_ECP = targets_EST.mT @ support_ESP / targets_EST.sum(1)[..., None].clamp_min(1)
    # The square of the query itself is the same for every class.
    closeness_EQC = query_EQP @ prototypes_ECP.mT - 0.5 * prototypes_ECP.square().sum(-1)[:, None]
    logits_EQC: Tensor = 2 * closeness_EQC / query_EQP.shape[-1] ** 0.5
    return logits_EQC


def train(bank: SourceBank, seed: int, *, steps: int = STEPS) -> ProtoNet:
    """Meta-trained on episodes of `bank`; the same seed gives the same baseline."""
    generator = torch.Generator().manual_seed(seed)
    episodes = prepare(bank, generator)
    network = identity_layer(bank.width)
    start = {name: t.detach().clone() for name, t in network.named_parameters()}

    def loss(parameters: Parameters, tasks: VectorTasks) -> Tensor:
        outputs = proto_logits(network, parameters, tasks.support_ESF, tasks.support_targets_EST, tasks.query_EQF)
        return support_loss(outputs, tasks.query_targets_EQT, classification=True)

    def states() -> Iterator[Parameters]:
        current = {name: t.clone().requires_grad_() for name, t in start.items()}
        optimiser = torch.optim.Adam(current.values(), lr=LR)
        for _ in range(steps):
            optimiser.zero_grad()
            loss(current, episodes.draw(generator)).backward()
            optimiser.step()
            yield {name: t.detach().clone() for name, t in current.items()}

    best = best_state(start, states(), loss, episodes.held_out)
    return ProtoNet(network=network, parameters=best, scaling=episodes.scaling)
