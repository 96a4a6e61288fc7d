"""ANIL (Raghu et al. 2020) on cached features: a linear body is meta-learned, a zero-initialised head is adapted.

The zero head (Kao et al. 2022) serves any number of classes, and is the better form of ANIL.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.learning.baselines.episodic import Scaling, best_state, identity_layer, prepare
from benchmarks.learning.baselines.problem import Problem
from learning.heads import one_hot
from learning.inner_loop import InnerLoopLearner, InnerLoopOptions, Network, make_learner, tasks_loss, train_steps
from learning.sources import SourceBank

OPTIONS = InnerLoopOptions(method="anil", inner_lr=0.01, inner_steps=10, outer_lr=3e-5, steps=300, zero_head=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Anil:
    learner: InnerLoopLearner
    scaling: Scaling

    def __call__(self, problem: Problem, query_QF: Tensor) -> Tensor:
        """(Q, C) probabilities; the sources were used in meta-training."""
        with torch.no_grad():
            adapted = self.learner.adapt(
                self.scaling(problem.support_SF)[None],
                one_hot(problem.support_labels_S, problem.n_classes).float()[None],
                classification=True,
            )
            return self.learner.outputs(adapted, self.scaling(query_QF)[None])[0].softmax(-1)


def train(bank: SourceBank, seed: int, *, options: InnerLoopOptions = OPTIONS) -> Anil:
    """Meta-trained on episodes of `bank`; the same seed gives the same baseline."""
    generator = torch.Generator().manual_seed(seed)
    episodes = prepare(bank, generator)
    network = Network(identity_layer(bank.width), nn.utils.skip_init(nn.Linear, bank.width, 1))
    start = make_learner(network, options)
    steps = (learner for _, learner in train_steps(start, episodes.draw, generator))
    return Anil(learner=best_state(start, steps, tasks_loss, episodes.held_out), scaling=episodes.scaling)
