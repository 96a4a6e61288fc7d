"""Stage A of meta-training: a graft that makes the encoder's features fit a family of domains, trained on the sources.

Two losses on the same batch. The shared-label loss is a cosine softmax over one vector per class name: domains that
share a label share its vector, so features move to where one domain's classes serve another. The episodic loss
classifies half of a batch by the class means of the other half (prototypical networks: Snell et al. 2017); where two
domains share labels the halves come from different domains. Only normalisation scales and shifts move.

A part of the sources is held out: its loss stops the training, and the rootstock itself competes.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from learning.config import GraftOptions
from learning.graft_batches import Batch, BatchSampler, RawRows, pooled
from learning.grafts import Graft, Graftable, zero_graft

#: BatchNorm's scales and shifts take, and need, larger steps than LayerNorm's.
LEARNING_RATES = {"text": 5e-3, "image": 2e-2}
#: Softmax sharpness of cosine similarities where training starts.
INITIAL_SCALE = 10.0
WARM_UP_STEPS = 10
#: Rows per class that place a class vector before training.
VECTOR_ROWS = 8
#: Steps between two looks at the held-out rows, as a share of all steps.
LOOK_EVERY = 0.25
#: Share of the time budget before which time is not looked at: a slow first step must not change what is learned.
TIME_COUNTS_FROM = 0.1
#: Episodes behind one look where the held-out classes are unknown to training.
LOOK_EPISODES = 40
#: A later graft whose held-out loss is at most this share above the least is preferred: looks are too noisy to tell the
#: two apart, and the rate has fallen further.
LOOK_TOLERANCE = 0.03
#: Softmax sharpnesses of which a look takes the one that suits the features: training spreads them ever further, and
#: at one fixed sharpness features that sort the held-out rows better would count as worse.
LOOK_SCALES = (5.0, 10.0, 20.0, 40.0, 80.0)
ENCODE_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at the held-out rows after `step` steps."""

    step: int
    seconds: float
    loss: float
    held_out: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassVectors:
    """One unit direction per class name over all domains, and the log sharpness of the softmax between them."""

    vectors_VF: Tensor
    log_scale: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        return self.vectors_VF, self.log_scale

    def logits(self, features_BF: Tensor, open_BV: Tensor) -> Tensor:
        """(B, V): minus infinity for the classes that are not open to a row."""
        similarity_BV = features_BF @ F.normalize(self.vectors_VF, dim=1).T
        return (self.log_scale.exp() * similarity_BV).masked_fill(~open_BV, -torch.inf)


def best_look(looks: Sequence[Look]) -> Look:
    """The last of those with about the least held-out loss; the first, the rootstock, only where none is below it."""
    below = [look for look in looks if look.held_out < looks[0].held_out]
    least = min((look.held_out for look in below), default=math.inf)
    return next((look for look in reversed(below) if look.held_out <= (1 + LOOK_TOLERANCE) * least), looks[0])


def shared_label_loss(vectors: ClassVectors, features_BF: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy of every row between the vectors of its domain's classes."""
    return F.cross_entropy(vectors.logits(features_BF, batch.open_BV), batch.vector_B)


def episodic_loss(features_BF: Tensor, batch: Batch, log_scale: Tensor) -> Tensor:
    """Mean cross-entropy of either half's rows between the directions of the other half's class means."""
    classes_C, way_B = batch.vector_B.unique(return_inverse=True)
    losses = []
    for support_B in (batch.support_B, ~batch.support_B):
        member_CS = F.one_hot(way_B[support_B], len(classes_C)).T.to(features_BF)
        prototypes_CF = F.normalize(member_CS @ features_BF[support_B], dim=1)
        similarity_QC = features_BF[~support_B] @ prototypes_CF.T
        losses.append(F.cross_entropy(log_scale.exp() * similarity_QC, way_B[~support_B]))
    return torch.stack(losses).mean()


def episodic_look(held: RawRows, features_NF: Tensor, *, batch_rows: int) -> float:
    """Mean episodic loss of features (N, F) of the held-out rows, at the sharpness that suits them best.

    Equal rows get the same episodes at every look.
    """
    numbered = RawRows(prepared=range(len(held)), size_N=torch.ones(len(held)), vector_N=held.vector_N)
    sampler = BatchSampler(domains=[numbered], n_vectors=int(held.vector_N.max()) + 1, batch_rows=batch_rows)
    generator = torch.Generator().manual_seed(0)
    draws = [_on(sampler.draw(generator), features_NF) for _ in range(LOOK_EPISODES)]

    def loss(scale: float) -> float:
        log_scale = torch.tensor(scale, device=features_NF.device).log()
        losses = [episodic_loss(features_NF[batch.prepared], batch, log_scale) for batch in draws]
        return float(torch.stack(losses).mean())

    return min(map(loss, LOOK_SCALES))


class GraftTrainer:
    """Trains scales and shifts from where they stand; `train` may be called again with other domains."""

    def __init__(self, encoder: Graftable, n_vectors: int, options: GraftOptions, generator: torch.Generator) -> None:
        # A copy with its own scales and shifts: while gradients are taken others may encode with the original.
        self.encoder = encoder.grafted(zero_graft(encoder.graft_points()))
        self.options, self.generator, self.n_vectors = options, generator, n_vectors
        self._lr = options.lr or LEARNING_RATES[encoder.modality]
        self._rootstock = {name: value.detach().clone() for name, value in encoder.graft_points().items()}
        self._offsets = {name: torch.zeros_like(value).requires_grad_() for name, value in self._rootstock.items()}
        self.vectors = ClassVectors(
            vectors_VF=torch.zeros(n_vectors, encoder.width, device=encoder.device).requires_grad_(),
            log_scale=torch.tensor(INITIAL_SCALE, device=encoder.device).log().requires_grad_(),
        )

    def place_vectors(self, domains: Sequence[RawRows]) -> None:
        """Class vectors that have no place yet start at the class means of a few rows, around the mean of all."""
        if self.options.loss == "episodic":
            return
        sums_VF = torch.zeros_like(self.vectors.vectors_VF.detach())
        for rows in domains:
            few = {v: found[_shuffled(len(found), self.generator)[:VECTOR_ROWS]] for v, found in rows.by_vector.items()}
            if not few:
                continue
            index_N = torch.cat(list(few.values()))
            features_NF = self.features(rows.select(index_N))
            features_NF = features_NF - features_NF.mean(0)
            sums_VF.index_add_(0, rows.vector_N[index_N].to(sums_VF.device), features_NF)
        new_V = self.vectors.vectors_VF.detach().norm(dim=1) == 0
        self.vectors.vectors_VF.data[new_V] = F.normalize(sums_VF, dim=1)[new_V]

    def features(self, rows: RawRows) -> Tensor:
        """(N, width) unit rows under the offsets as they stand."""
        order = rows.size_N.argsort(stable=True).tolist()
        features_NF = torch.empty(len(rows), self.encoder.width, device=self.encoder.device)
        with torch.no_grad():
            for start in range(0, len(order), ENCODE_ROWS):
                index = order[start : start + ENCODE_ROWS]
                features_NF[index] = self._encode([rows.prepared[i] for i in index])
        return features_NF

    def _encode(self, prepared: list[object], jitter: torch.Generator | None = None) -> Tensor:
        values = {name: value + self._offsets[name] for name, value in self._rootstock.items()}
        return self.encoder.differentiate(prepared, values, jitter=jitter)

    def held_out_loss(self, held: RawRows, known_V: Tensor) -> float:
        """Of the shared-label loss where training knows two of the held-out classes, else of the episodic loss."""
        features_NF = self.features(held)
        shared_V = known_V & (torch.bincount(held.vector_N, minlength=self.n_vectors) > 0)
        with torch.no_grad():
            if self.options.loss == "both" and int(shared_V.sum()) > 1:
                rows_N = shared_V[held.vector_N]
                open_BV = shared_V.expand(int(rows_N.sum()), -1).to(features_NF.device)
                logits_BV = self.vectors.logits(features_NF[rows_N.to(features_NF.device)], open_BV)
                return float(F.cross_entropy(logits_BV, held.vector_N[rows_N].to(features_NF.device)))
            return episodic_look(held, features_NF, batch_rows=self.options.batch_rows)

    def train(
        self,
        domains: Sequence[RawRows],
        held: RawRows | None,
        *,
        steps: int,
        budget_s: float,
        progress: Callable[[float], None],
    ) -> tuple[Graft, tuple[Look, ...]]:
        """Moves on from where the offsets stand. With `held`, ends at the graft of `best_look`.

        Without, at the last one.
        """
        sampler = BatchSampler(domains=pooled(domains), n_vectors=self.n_vectors, batch_rows=self.options.batch_rows)
        known_V = torch.zeros(self.n_vectors, dtype=torch.bool)
        known_V[[v for rows in domains for v in rows.by_vector]] = True
        schedule, best, recent = _Schedule(steps, budget_s), self._state(), 0.0
        looks: list[Look] = []
        parameters = [*self._offsets.values(), self.vectors.vectors_VF, self.vectors.log_scale]
        optimiser = torch.optim.Adam(parameters)
        next_look = 0.0
        for step in range(steps + 1):
            used = schedule.used(step)
            if held is not None and (used >= next_look or used >= 1.0):
                next_look = (math.floor(used / LOOK_EVERY) + 1) * LOOK_EVERY
                look = Look(
                    step=step, seconds=schedule.seconds, loss=recent, held_out=self.held_out_loss(held, known_V)
                )
                looks.append(look)
                if best_look(looks) is look:
                    best = self._state()
            if used >= 1.0:
                break
            loss = self._step(sampler.draw(self.generator), optimiser, self._lr * schedule.rate(step))
            recent = loss if step == 0 else 0.9 * recent + 0.1 * loss
            progress(used)
        if held is not None:
            self._restore(best)
        return self.graft, tuple(looks)

    def branch(self, domain: RawRows, *, steps: int, budget_s: float, progress: Callable[[float], None]) -> Graft:
        """The graft of one domain, trained on from where the offsets stand; they stand there again afterwards."""
        trunk = self._state()
        graft, _ = self.train([domain], None, steps=steps, budget_s=budget_s, progress=progress)
        self._restore(trunk)
        return graft

    @property
    def graft(self) -> Graft:
        return Graft(offsets=self._offsets).stored()

    def _step(self, batch: Batch, optimiser: torch.optim.Optimizer, rate: float) -> float:
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad()
        jitter = None if self.options.augmentation == "none" else self.generator
        features_BF = self._encode(batch.prepared, jitter)
        batch = _on(batch, features_BF)
        loss = episodic_loss(features_BF, batch, self.vectors.log_scale)
        if self.options.loss == "both":
            loss = loss + shared_label_loss(self.vectors, features_BF, batch)
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    def _state(self) -> list[Tensor]:
        return [t.detach().clone() for t in (*self._offsets.values(), *self.vectors.tensors)]

    def _restore(self, state: list[Tensor]) -> None:
        for tensor, value in zip((*self._offsets.values(), *self.vectors.tensors), state, strict=True):
            tensor.data.copy_(value)


def _on(batch: Batch, features_BF: Tensor) -> Batch:
    """The batch's tensors where the features are."""
    device = features_BF.device
    return replace(
        batch,
        vector_B=batch.vector_B.to(device),
        support_B=batch.support_B.to(device),
        open_BV=batch.open_BV.to(device),
    )


def _shuffled(count: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator)


class _Schedule:
    """Warm-up, then a linear fall to zero over the steps or the time budget, whichever ends first."""

    def __init__(self, steps: int, budget_s: float) -> None:
        self._steps, self._budget_s, self._began = steps, budget_s, time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def used(self, step: int) -> float:
        """Share of the training that is over, in [0, 1]: of the steps, or of the time once it runs ahead of them."""
        by_time = self.seconds / self._budget_s
        return min(1.0, max(step / self._steps if self._steps else 1.0, by_time if by_time > TIME_COUNTS_FROM else 0.0))

    def rate(self, step: int) -> float:
        return min(1.0, (step + 1) / WARM_UP_STEPS) * (1 - self.used(step))
