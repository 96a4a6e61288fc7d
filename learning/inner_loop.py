"""Gradient-based meta-learning of small networks on vectors: MAML, FOMAML, ANIL, Reptile and Meta-SGD.

All five learn where a network starts, so that a few gradient steps on a small support solve a new task. They differ in
what the steps change and in what the outer loop differentiates:

    maml      every parameter; through the steps                    Finn et al. 2017, algorithms 1 and 2
    fomaml    every parameter; the steps' gradients are constants   Finn et al. 2017, section 5.2
    anil      the last layer only; through the steps                Raghu et al. 2020
    meta_sgd  every parameter, each with a learned rate; through    Li et al. 2017, algorithm 1
    reptile   every parameter; nothing: the start moves toward      Nichol et al. 2018, algorithm 2
              where the steps end

Parameters are plain dictionaries of tensors and the network is called functionally (`torch.func`), so nothing is ever
written into a module; the E tasks of a step run as one batch (`vmap`).

Deviations: Meta-SGD's rates are kept positive (exponentials), where the paper lets them change sign; the outer rate
falls to zero along half a cosine, which a short training needs (Reptile's paper has a line, the others a constant).
Reptile's inner steps see mini-batches of support and query rows together: its paper has no split.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from learning.episodes import EpisodeBatch
from learning.errors import InvalidData, InvalidOptions, UselessModel

Method = Literal["maml", "fomaml", "anil", "reptile", "meta_sgd"]
Parameters = Mapping[str, Tensor]

#: Outer gradients are clipped to this norm: a query loss after an unlucky inner step can be huge.
MAX_GRADIENT_NORM = 10.0


@dataclass(frozen=True, kw_only=True)
class InnerLoopOptions:
    """`zero_head`: the last layer starts at zero in every task (Kao et al. 2022), so tasks may differ in outputs."""

    method: Method = "maml"
    inner_lr: Annotated[float, Gt(0), Le(10)] = 0.01
    """Rate of the steps on a task; where Meta-SGD's rates start."""
    inner_steps: Annotated[int, Ge(1), Le(1000)] = 1
    outer_lr: Annotated[float, Gt(0), Le(1)] = 1e-3
    """Rate of Adam on the start; for Reptile the share of the way toward the adapted parameters."""
    steps: Annotated[int, Ge(0), Le(1_000_000)] = 1000
    zero_head: bool = False
    batch_rows: Annotated[int, Ge(1)] = 10
    """Rows of one inner step of Reptile's meta-training."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VectorTasks:
    """E tasks on vectors: supports (E, S, F) and queries (E, Q, F) with targets (E, S, T) and (E, Q, T).

    Targets are one-hot for classification. Raises `InvalidData` where the shapes do not fit together.
    """

    support_ESF: Tensor
    support_targets_EST: Tensor
    query_EQF: Tensor
    query_targets_EQT: Tensor
    classification: bool

    def __post_init__(self) -> None:
        inputs, targets = (self.support_ESF, self.query_EQF), (self.support_targets_EST, self.query_targets_EQT)
        fits = all(t.ndim == 3 for t in (*inputs, *targets)) and all(
            x.shape[:2] == y.shape[:2] for x, y in zip(inputs, targets, strict=True)
        )
        if not fits or inputs[0].shape[::2] != inputs[1].shape[::2] or targets[0].shape[2] != targets[1].shape[2]:
            raise InvalidData(
                f"tasks of shapes {[tuple(t.shape) for t in (*inputs, *targets)]} do not fit together",
                hint="give supports (E, S, F), queries (E, Q, F) and their targets (E, S, T) and (E, Q, T)",
            )

    @classmethod
    def of(cls, batch: EpisodeBatch) -> "VectorTasks":
        """The target's side of transfer tasks: these methods use sources only to meta-train."""
        return cls(
            support_ESF=batch.task.support_ESF,
            support_targets_EST=batch.task.support_targets_EST,
            query_EQF=batch.query_EQF,
            query_targets_EQT=batch.query_targets_EQT,
            classification=batch.task.classification,
        )


class Network(nn.Module):
    """A body and a linear head; ANIL's inner steps change the head alone."""

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, rows: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.body(rows))
        return outputs


def mlp(widths: Sequence[int], generator: torch.Generator) -> Network:
    """A ReLU network of `widths` = (F, hidden..., T) in float32.

    Weights are drawn from `generator` (Glorot and Bengio 2010, eq. 12, normal), biases are zero.

    Raises `InvalidOptions` where there are fewer than two widths.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise InvalidOptions(f"widths {tuple(widths)} make no network", hint="give input width, hidden widths, outputs")
    layers: list[nn.Linear] = []
    for fan_in, fan_out in pairwise(widths):
        # Made without values: nn.Linear would draw them from the global generator.
        layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
        nn.init.xavier_normal_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
        layers.append(layer)
    hidden = [module for layer in layers[:-1] for module in (layer, nn.ReLU())]
    return Network(nn.Sequential(*hidden), layers[-1])


@dataclass(frozen=True, kw_only=True, eq=False)
class InnerLoopLearner:
    """A start and its rates. `log_rates` (Meta-SGD only) has a tensor per parameter; a zero head shares one row."""

    network: Network
    parameters: Parameters
    log_rates: Parameters
    options: InnerLoopOptions

    def adapt(
        self, support_ESF: Tensor, targets_EST: Tensor, *, classification: bool, steps: int | None = None
    ) -> Parameters:
        """The parameters after `steps` (None: as in training) full-batch gradient steps, each (E, ...)."""
        n_steps = self.options.inner_steps if steps is None else steps

        def one(support_SF: Tensor, targets_ST: Tensor) -> Parameters:
            return _adapt_one(self, support_SF, targets_ST, n_steps, classification=classification)

        adapted: Parameters = vmap(one)(support_ESF, targets_EST)
        return adapted

    def outputs(self, adapted: Parameters, rows_ENF: Tensor) -> Tensor:
        """(E, N, T): logits, or predicted labels."""
        outputs_ENT: Tensor = vmap(lambda p, rows: functional_call(self.network, p, (rows,)))(adapted, rows_ENF)
        return outputs_ENT


def make_learner(network: Network, options: InnerLoopOptions) -> InnerLoopLearner:
    """An untrained learner whose parameters are copies of `network`'s."""
    parameters = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
    rates: Parameters = {}
    if options.method == "meta_sgd":
        rates = {name: torch.full_like(tensor, math.log(options.inner_lr)) for name, tensor in parameters.items()}
        if options.zero_head:
            rates = {name: t[:1].clone() if name.startswith("head.") else t for name, t in rates.items()}
    if options.zero_head:
        parameters = {name: t for name, t in parameters.items() if not name.startswith("head.")}
    return InnerLoopLearner(network=network, parameters=parameters, log_rates=rates, options=options)


def _start(learner: InnerLoopLearner, rows: Tensor, n_outputs: int) -> Parameters:
    if not learner.options.zero_head:
        return learner.parameters
    width = learner.network.head.in_features
    return {
        **learner.parameters,
        "head.weight": rows.new_zeros(n_outputs, width),
        "head.bias": rows.new_zeros(n_outputs),
    }


def support_loss(outputs_ST: Tensor, targets_ST: Tensor, *, classification: bool) -> Tensor:
    """Mean cross-entropy with one-hot targets, or mean squared error."""
    if classification:
        return -(outputs_ST.log_softmax(-1) * targets_ST).sum(-1).mean()
    return F.mse_loss(outputs_ST, targets_ST)


def _adapt_one(
    learner: InnerLoopLearner,
    rows_NF: Tensor,
    targets_NT: Tensor,
    steps: int,
    *,
    classification: bool,
    batches: Tensor | None = None,
) -> Parameters:
    """One task; `batches` (steps, B) are the rows of each step, all of them if None."""
    start = _start(learner, rows_NF, targets_NT.shape[-1])
    network: nn.Module = learner.network
    fixed: Parameters = {}
    fast = dict(start)
    if learner.options.method == "anil":
        # The body does not change within a task, so its features are computed once.
        fixed = {name: t for name, t in start.items() if name.startswith("body.")}
        fast = {name.removeprefix("head."): t for name, t in start.items() if name.startswith("head.")}
        body = {name.removeprefix("body."): t for name, t in fixed.items()}
        rows_NF = functional_call(learner.network.body, body, (rows_NF,))
        network = learner.network.head

    def loss(parameters: Parameters, rows_BF: Tensor, targets_BT: Tensor) -> Tensor:
        outputs_BT = functional_call(network, dict(parameters), (rows_BF,))
        return support_loss(outputs_BT, targets_BT, classification=classification)

    rates = {name: t.exp() for name, t in learner.log_rates.items()}
    for step in range(steps):
        rows, targets = (
            (rows_NF, targets_NT) if batches is None else (rows_NF[batches[step]], targets_NT[batches[step]])
        )
        at = {name: t.detach() for name, t in fast.items()} if learner.options.method == "fomaml" else fast
        gradient = grad(loss)(at, rows, targets)
        fast = {name: t - rates.get(name, learner.options.inner_lr) * gradient[name] for name, t in fast.items()}
    return fast if not fixed else {**fixed, **{f"head.{name}": t for name, t in fast.items()}}


def tasks_loss(learner: InnerLoopLearner, tasks: VectorTasks) -> Tensor:
    """Mean query loss after adaptation (scalar), differentiable in the learner's parameters and rates."""
    adapted = learner.adapt(tasks.support_ESF, tasks.support_targets_EST, classification=tasks.classification)
    outputs_EQT = learner.outputs(adapted, tasks.query_EQF)
    return support_loss(outputs_EQT, tasks.query_targets_EQT, classification=tasks.classification)


def train_steps(
    learner: InnerLoopLearner, draw: Callable[[torch.Generator], VectorTasks], generator: torch.Generator
) -> Iterator[tuple[float, InnerLoopLearner]]:
    """`options.steps` outer steps over tasks from `draw`: after each the mean query loss before it, and the learner.

    Raises `UselessModel` where the loss is no longer finite.
    """
    update = _reptile_steps if learner.options.method == "reptile" else _gradient_steps
    for step, (loss, current) in enumerate(update(learner, draw, generator), start=1):
        if not torch.isfinite(torch.tensor(loss)):
            raise UselessModel(f"meta-training diverged at step {step}", hint="lower inner_lr or outer_lr")
        yield loss, current


def _gradient_steps(
    learner: InnerLoopLearner, draw: Callable[[torch.Generator], VectorTasks], generator: torch.Generator
) -> Iterator[tuple[float, InnerLoopLearner]]:
    parameters = {name: t.clone().requires_grad_() for name, t in learner.parameters.items()}
    log_rates = {name: t.clone().requires_grad_() for name, t in learner.log_rates.items()}
    current = replace(learner, parameters=parameters, log_rates=log_rates)
    learned = [*parameters.values(), *log_rates.values()]
    optimiser = torch.optim.Adam(learned, lr=learner.options.outer_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(learner.options.steps, 1))
    for _ in range(learner.options.steps):
        optimiser.zero_grad()
        loss = tasks_loss(current, draw(generator))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, MAX_GRADIENT_NORM)
        optimiser.step()
        schedule.step()
        yield float(loss.detach()), _detached(current)


def _reptile_steps(
    learner: InnerLoopLearner, draw: Callable[[torch.Generator], VectorTasks], generator: torch.Generator
) -> Iterator[tuple[float, InnerLoopLearner]]:
    options, current = learner.options, _detached(learner)
    for step in range(options.steps):
        tasks = draw(generator)
        with torch.no_grad():
            loss = float(tasks_loss(current, tasks))
            adapted = _reptile_adapt(current, tasks, generator)
            share = options.outer_lr * (0.5 + 0.5 * math.cos(math.pi * step / options.steps))
            moved = {name: t + share * (adapted[name].mean(0) - t) for name, t in current.parameters.items()}
        current = replace(current, parameters=moved)
        yield loss, current


def _reptile_adapt(learner: InnerLoopLearner, tasks: VectorTasks, generator: torch.Generator) -> Parameters:
    rows_ENF = torch.cat([tasks.support_ESF, tasks.query_EQF], dim=1)
    targets_ENT = torch.cat([tasks.support_targets_EST, tasks.query_targets_EQT], dim=1)
    n_rows, steps = rows_ENF.shape[1], learner.options.inner_steps
    size = min(learner.options.batch_rows, n_rows)
    batches = torch.stack([torch.randperm(n_rows, generator=generator)[:size] for _ in range(steps)]).to(
        rows_ENF.device
    )

    def one(rows_NF: Tensor, targets_NT: Tensor) -> Parameters:
        return _adapt_one(learner, rows_NF, targets_NT, steps, classification=tasks.classification, batches=batches)

    adapted: Parameters = vmap(one)(rows_ENF, targets_ENT)
    return adapted


def _detached(learner: InnerLoopLearner) -> InnerLoopLearner:
    return replace(
        learner,
        parameters={name: t.detach().clone() for name, t in learner.parameters.items()},
        log_rates={name: t.detach().clone() for name, t in learner.log_rates.items()},
    )
