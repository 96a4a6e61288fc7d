"""What the two episodic baselines share: tasks drawn from source domains, scaled features, and when to stop.

Both see the very episodes that the product's meta-learner sees (`learning.episodes`), but for the source rows, which
neither uses. One domain (or part of the classes) is held out; the best state on it is kept, so that no target row and
no fixed number of steps decides.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from learning.config import EpisodeOptions
from learning.episodes import EpisodeBatch, EpisodeSampler
from learning.inner_loop import VectorTasks
from learning.sources import SourceBank
from learning.splits import split_sources

EPISODES_PER_STEP = 16
CHECK_EVERY = 25
PATIENCE = 4
VALIDATION_BATCHES = 8
#: Few source rows: they are drawn and thrown away.
EPISODES = EpisodeOptions(max_way=20, max_shot=16, n_query=40, max_source_rows=8, hostile=0.0)

State = TypeVar("State")


@dataclass(frozen=True, kw_only=True, eq=False)
class Scaling:
    """Features centred on the sources' mean, of mean squared norm F: what default initialisations expect."""

    mean_F: Tensor
    scale: float

    @classmethod
    def of(cls, features_NF: Tensor) -> "Scaling":
        mean_F = features_NF.float().mean(0)
        return cls(mean_F=mean_F, scale=1 / max(float((features_NF - mean_F).square().mean().sqrt()), 1e-9))

    def __call__(self, features: Tensor) -> Tensor:
        return (features.float() - self.mean_F) * self.scale


def identity_layer(width: int) -> nn.Linear:
    """A linear map that starts as the identity: meta-training then starts from the encoder's own features.

    A random small network in its place starts far worse and, with a few dozen source classes, never catches up.
    """
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, width, width)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@dataclass(frozen=True, kw_only=True, eq=False)
class Episodes:
    """Tasks with scaled features: for training, and a fixed set that is held out from it."""

    sampler: EpisodeSampler
    scaling: Scaling
    held_out: tuple[VectorTasks, ...]

    def draw(self, generator: torch.Generator) -> VectorTasks:
        return _scaled(self.sampler.draw(EPISODES_PER_STEP, generator), self.scaling)


def prepare(bank: SourceBank, generator: torch.Generator) -> Episodes:
    """Raises `InvalidData` where the bank has no two classes with two rows."""
    split, scaling = split_sources(bank, EPISODES, generator), Scaling.of(bank.features_NF)
    batches = [split.held_out.draw(EPISODES_PER_STEP, generator) for _ in range(VALIDATION_BATCHES)]
    held_out = tuple(_scaled(batch, scaling) for batch in batches)
    return Episodes(sampler=split.train, scaling=scaling, held_out=held_out)


def _scaled(batch: EpisodeBatch, scaling: Scaling) -> VectorTasks:
    tasks = VectorTasks.of(batch)
    return VectorTasks(
        support_ESF=scaling(tasks.support_ESF),
        support_targets_EST=tasks.support_targets_EST,
        query_EQF=scaling(tasks.query_EQF),
        query_targets_EQT=tasks.query_targets_EQT,
        classification=tasks.classification,
    )


def best_state(
    start: State,
    steps: Iterator[State],
    loss: Callable[[State, VectorTasks], Tensor],
    held_out: tuple[VectorTasks, ...],
) -> State:
    """The state with the lowest held-out loss, looked at every few steps until it has not fallen for a while."""

    def held_out_loss(state: State) -> float:
        with torch.no_grad():
            return sum(float(loss(state, tasks)) for tasks in held_out) / len(held_out)

    best, best_loss, stale = start, held_out_loss(start), 0
    for step, state in enumerate(steps, start=1):
        if step % CHECK_EVERY:
            continue
        now = held_out_loss(state)
        stale = stale + 1 if now >= best_loss else 0
        if now < best_loss:
            best, best_loss = state, now
        if stale == PATIENCE:
            break
    return best
