"""How many tasks a second one core meta-trains on, and adapts to, on cached features.

The peer of meta-training is the usual loop: clone the initial head for every task, step by autograd with
`create_graph`, back-propagate the query loss, task after task. It solves the very problem that the batch solves
(the suite checks that the outer gradients agree). Where learn2learn is installed, its `MAML` runs a plain linear head
of the same size beside it: less work per task, as it generates nothing.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.learning.data import clinc150
from benchmarks.learning.features import encoded
from benchmarks.learning.results import Bench, Row, SuiteResult, at_least, at_most
from learning.config import EpisodeOptions
from learning.encoders.registry import default_encoder, load_encoder
from learning.episodes import EpisodeBatch, EpisodeSampler
from learning.featurisers import Centring
from learning.heads import with_bias
from learning.initialisation import generate, init_outputs
from learning.meta import UNROLLED_STEPS, episode_loss, query_loss
from learning.metric import metric_outputs
from learning.parameters import TransferParameters, default_parameters, embed
from learning.projection import initial_projection
from learning.sources import SourceBank, build_bank
from learning.task import TransferTask
from learning.types import Domain

WAYS, SHOTS, QUERIES = 5, 5, 15
ROWS_PER_CLASS = SHOTS + QUERIES
PROJECTION_WIDTH = 64
TASKS = 1000
#: Episodes of one meta-training step, and tasks adapted in one go: a batch that stays in the processor's cache.
TRAINING_BATCH, ADAPTATION_BATCH = 64, 50
TRAINING, ADAPTING = "meta-training, 5-way 5-shot", "adapt + predict, 5-way 5-shot"
LEARN2LEARN = "learn2learn MAML, plain head"


def run(bench: Bench) -> SuiteResult:
    """Medians of processor seconds of a single thread, which neighbours on the machine disturb least."""
    repeats = 6 if bench.quick else 9
    bank = _bank(bench)
    training = _training(bank, repeats, tasks=8 if bench.quick else 32)
    adapting, accuracies = _adapting(bank, repeats)
    rates = {name: _median(values) for name, values in (training | adapting).items()}
    peers = [rates[name] for name in training if name == LEARN2LEARN or name.startswith("sequential")]
    slowest = max(TASKS / rates[name] for name in adapting)
    return SuiteResult(
        name="task_speed",
        protocol=f"{WAYS}-way {SHOTS}-shot tasks of CLINC150 on {bank.width}-d features, {QUERIES} queries a class, "
        f"{UNROLLED_STEPS} inner steps; one thread; medians of {repeats} repeats with their 95 % intervals",
        unit="tasks/s",
        rows=[_row(TRAINING, name, values) for name, values in training.items()]
        + [_row(ADAPTING, name, values) for name, values in adapting.items()],
        goals=[
            at_least(
                "meta-training against a sequential clone-and-adapt loop of the same inner problem",
                rates["init, batched"] / rates["sequential loop, the same problem"], 15, "times",
            ),
            at_most(f"{TASKS:,} tasks, adapt + predict, the slower learner", slowest, 1, "s"),
        ],
        notes=[
            "outer gradients of the batch and of the loop agree to 1e-3",
            f"against the fastest loop here meta-training is {rates['init, batched'] / max(peers):.1f} times faster",
            *(f"accuracy of {name}: {100 * accuracy:.1f} %" for name, accuracy in accuracies.items()),
        ],
    )  # fmt: skip


def _bank(bench: Bench) -> SourceBank:
    """Two domains of 40 classes each: the first gives tasks, the second fits the metric."""
    examples, encoder = clinc150(bench.data, "train"), load_encoder(default_encoder("text"))
    domains = []
    for name, classes in (("tasks", examples.classes[:40]), ("metric", examples.classes[40:80])):
        members = [[i for i, y in enumerate(examples.labels) if y == label][:ROWS_PER_CLASS] for label in classes]
        rows = examples.select([i for member in members for i in member])
        domains.append(Domain(name=name, data=encoded(bench, encoder, rows)))
    fitted = Centring().fit([domain.data.inputs for domain in domains])
    return build_bank(domains, fitted, max_rows=5000, generator=torch.Generator().manual_seed(0))


def _parameters(bank: SourceBank) -> TransferParameters:
    projection_PF = initial_projection(bank, bank.domain_N == 1, PROJECTION_WIDTH)
    return default_parameters(bank.width, projection_PF).to(torch.float32)


def _training(bank: SourceBank, repeats: int, tasks: int) -> dict[str, list[float]]:
    sampler = EpisodeSampler(
        bank=bank, targets=(0,), helpers=(0,), pool_N=torch.ones(len(bank.labels_N), dtype=torch.bool),
        options=EpisodeOptions(max_way=WAYS, n_query=WAYS * QUERIES),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    batch = _five_way(sampler, generator)
    start = _parameters(bank)
    learned = {name: t.requires_grad_(name != "projection_PF") for name, t in start.tensors().items()}
    parameters = TransferParameters(**learned)
    projection_DPF = start.projection_PF.expand(len(bank.names), -1, -1)
    of_batch = replace(parameters, projection_PF=projection_DPF[batch.domain_E])

    def inner_batched() -> None:
        init = init_outputs(of_batch, batch.task, batch.query_EQF, similarity="cosine", steps=UNROLLED_STEPS)
        query_loss(init, batch).mean().backward()

    def inner_loop() -> None:
        for e in range(tasks):
            (_clone_and_adapt(parameters, _only(batch, e)) / tasks).backward()

    def whole_step() -> None:
        drawn = sampler.draw(TRAINING_BATCH, generator, shots=SHOTS)
        episode_loss(parameters, projection_DPF, drawn, "cosine").backward()

    _check_same_gradient(parameters, of_batch, batch)
    rates = {
        "init, batched": _rates(inner_batched, TRAINING_BATCH, repeats),
        "sequential loop, the same problem": _rates(inner_loop, tasks, repeats),
        "stage B: drawing, metric and init": _rates(whole_step, TRAINING_BATCH, repeats),
    }
    if (peer := _learn2learn_loop(batch, tasks)) is not None:
        rates[LEARN2LEARN] = _rates(peer, tasks, repeats)
    return rates


def _five_way(sampler: EpisodeSampler, generator: torch.Generator) -> EpisodeBatch:
    """The sampler draws fewer ways as well."""
    while True:
        batch = sampler.draw(TRAINING_BATCH, generator, shots=SHOTS)
        if batch.task.n_way == WAYS:
            return batch


def _only(batch: EpisodeBatch, e: int) -> EpisodeBatch:
    def cut(part: Any) -> dict[str, Any]:
        return {name: t[e : e + 1] for name, t in vars(part).items() if isinstance(t, Tensor)}

    return replace(batch, task=replace(batch.task, **cut(batch.task)), **cut(batch))


def _clone_and_adapt(parameters: TransferParameters, batch: EpisodeBatch) -> Tensor:
    """The query loss of one task as the usual loop computes it: a cloned head, inner gradients by autograd."""
    task = batch.task
    embedded_ESF = embed(parameters, task.support_ESF, "cosine")
    init = generate(parameters, task, similarity="cosine", embedded_ESF=embedded_ESF)
    rows_SF = with_bias(embedded_ESF)[0]
    pull, start_FT = init.regularisation_E[0], init.head_EFT[0]
    curvature = 0.5 * torch.linalg.eigvalsh((rows_SF @ rows_SF.T).detach())[-1] / len(rows_SF)
    rate, head_FT = init.step_E[0] / (curvature + 2 * pull), start_FT.clone()
    for _ in range(UNROLLED_STEPS):
        loss = _cross_entropy(rows_SF @ head_FT, task.support_targets_EST[0])
        loss = loss + pull * (head_FT - start_FT).square().sum()
        (gradient_FT,) = torch.autograd.grad(loss, head_FT, create_graph=True)
        head_FT = head_FT - rate * gradient_FT
    query_QF = with_bias(embed(parameters, batch.query_EQF, "cosine"))[0]
    return _cross_entropy(query_QF @ head_FT, batch.query_targets_EQT[0])


def _cross_entropy(logits_NT: Tensor, targets_NT: Tensor) -> Tensor:
    return -(logits_NT.log_softmax(-1) * targets_NT).sum(-1).mean()


def _check_same_gradient(parameters: TransferParameters, of_batch: TransferParameters, batch: EpisodeBatch) -> None:
    init = init_outputs(of_batch, batch.task, batch.query_EQF, similarity="cosine", steps=UNROLLED_STEPS)
    learned = [parameters.init_4D, parameters.log_metric_gain]
    batched = torch.autograd.grad(query_loss(init, batch).mean(), learned)
    losses = [_clone_and_adapt(parameters, _only(batch, e)) for e in range(TRAINING_BATCH)]
    looped = torch.autograd.grad(torch.stack(losses).mean(), learned)
    for one, other in zip(batched, looped, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def _learn2learn_loop(batch: EpisodeBatch, tasks: int) -> Callable[[], None] | None:
    """None where learn2learn is not installed."""
    try:
        maml = import_module("learn2learn.algorithms.maml").MAML
    except ImportError:
        return None
    model = maml(torch.nn.Linear(batch.query_EQF.shape[-1] + PROJECTION_WIDTH, WAYS), lr=0.5)
    support_ESF, query_EQF = (
        F.pad(t, (0, PROJECTION_WIDTH)) for t in (batch.task.support_ESF, batch.query_EQF)
    )  # fmt: skip

    def loop() -> None:
        for e in range(tasks):
            learner = model.clone()
            for _ in range(UNROLLED_STEPS):
                learner.adapt(_cross_entropy(learner(support_ESF[e]), batch.task.support_targets_EST[e]))
            _cross_entropy(learner(query_EQF[e]), batch.query_targets_EQT[e]).backward()

    return loop


def _adapting(bank: SourceBank, repeats: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Tasks a second and accuracy of both transfer learners, from row numbers to answers."""
    generator, parameters = torch.Generator().manual_seed(1), _parameters(bank)
    rows_CN = torch.stack([row.nonzero()[:, 0] for row in _membership(bank)])
    classes_EC = torch.stack([torch.randperm(len(rows_CN), generator=generator)[:WAYS] for _ in range(TASKS)])
    order_ECN = torch.rand(TASKS, WAYS, ROWS_PER_CLASS, generator=generator).argsort(-1)
    rows_ECN = rows_CN[classes_EC].gather(2, order_ECN)
    truth_Q = torch.arange(WAYS).repeat_interleave(QUERIES)
    learners: dict[str, Callable[[TransferTask, Tensor], Tensor]] = {
        "metric (closed form)": lambda task, query: metric_outputs(parameters, task, query, similarity="cosine"),
        "init (10 steps)": lambda task, query: init_outputs(
            parameters, task, query, similarity="cosine", steps=UNROLLED_STEPS
        ),
    }
    rates, accuracies = {}, {}
    for name, learner in learners.items():

        def answers(learner: Callable[[TransferTask, Tensor], Tensor] = learner) -> Tensor:
            with torch.no_grad():
                return torch.cat([learner(*_tasks(bank, part)).argmax(-1) for part in rows_ECN.split(ADAPTATION_BATCH)])

        accuracies[name] = float((answers() == truth_Q).double().mean())
        rates[name] = _rates(answers, TASKS, repeats)
    return rates, accuracies


def _membership(bank: SourceBank) -> list[Tensor]:
    tasks_N = bank.domain_N == 0
    return [tasks_N & (bank.labels_N == label) for label in bank.labels_N[tasks_N].unique()]


def _tasks(bank: SourceBank, rows_ECN: Tensor) -> tuple[TransferTask, Tensor]:
    """Tasks without sources, grouped by class, and their queries."""
    n_tasks, width = len(rows_ECN), bank.width
    support_ESF = bank.features_NF[rows_ECN[:, :, :SHOTS].flatten(1)]
    query_EQF = bank.features_NF[rows_ECN[:, :, SHOTS:].flatten(1)]
    none = support_ESF.new_zeros(n_tasks, 0)
    task = TransferTask(
        support_ESF=support_ESF,
        support_targets_EST=torch.eye(WAYS).repeat_interleave(SHOTS, 0).expand(n_tasks, -1, -1),
        source_EMF=support_ESF.new_zeros(n_tasks, 0, width),
        source_targets_EMT=support_ESF.new_zeros(n_tasks, 0, WAYS),
        source_usable_EM=none,
        source_domain_EM=none.long(),
        prior_EDTF=support_ESF.new_zeros(n_tasks, 0, WAYS, width),
        prior_bias_EDT=support_ESF.new_zeros(n_tasks, 0, WAYS),
        known_ED=none,
        classification=True,
    )
    return task, query_EQF


def _rates(work: Callable[[], object], tasks: int, repeats: int) -> list[float]:
    """Tasks a second of each repeat, after one that does not count."""
    work()
    rates = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        rates.append(tasks / (time.process_time() - started))
    return rates


def _median(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(0.5))


def _row(setting: str, method: str, values: Sequence[float]) -> Row:
    """The median with order statistics that contain it at 95 %: all of 6 values, all but the ends of 9."""
    ordered, cut = sorted(values), int(len(values) >= 9)
    return Row(
        setting=setting, method=method, mean=_median(values), low=ordered[cut], high=ordered[-1 - cut], n=len(values)
    )
