"""Every derivative that meta-training relies on, against finite differences or autograd, and batches against loops."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from learning import initialisation
from learning.config import EpisodeOptions, Similarity
from learning.episodes import EpisodeBatch, EpisodeSampler
from learning.featurisers import Centring
from learning.heads import ridge_solve, with_bias
from learning.initialisation import GeneratedInit, fine_tune, generate
from learning.meta import episode_loss
from learning.parameters import TransferParameters, default_parameters
from learning.projection import cross_fitted
from learning.sources import build_bank
from learning.types import Task
from tests.learning.problems import WIDTH, sources

PROJECTED = 3
GENERATED = tuple(
    name for name, tensor in default_parameters(WIDTH).tensors().items() if name != "projection_PF" and tensor.numel()
)


def doubled(batch: EpisodeBatch) -> EpisodeBatch:
    """The batch in float64, which finite differences need."""

    def cast(part: Any) -> Any:
        floats = {name: t.double() for name, t in vars(part).items() if isinstance(t, Tensor) and t.is_floating_point()}
        return replace(part, **floats)

    return replace(cast(batch), task=cast(batch.task))  # type: ignore[no-any-return]


def problem(task: Task) -> tuple[TransferParameters, Tensor, EpisodeBatch]:
    """Parameters away from their defaults, a projection per domain, and two episodes with sources."""
    domains = sources(task, n_domains=3)
    fitted = Centring().fit([domain.data.inputs for domain in domains])
    generator = torch.Generator().manual_seed(0)
    bank = build_bank(domains, fitted, max_rows=1000, generator=generator)
    every = torch.ones(len(bank.labels_N), dtype=torch.bool)
    sampler = EpisodeSampler(
        bank=bank, targets=(0, 1, 2), helpers=(0, 1, 2), pool_N=every,
        options=EpisodeOptions(n_query=9, max_source_rows=20, hostile=0.0),
    )  # fmt: skip
    batch = doubled(sampler.draw(2, generator, shots=2 if task == "classification" else 8, all_sources=True))
    projection_DPF = cross_fitted(bank, every, PROJECTED).double()
    start = default_parameters(WIDTH, projection_DPF[0])
    moved = {
        name: t + 0.05 * torch.randn(t.shape, generator=generator).double()
        for name, t in start.tensors().items()
        if t.numel()
    }
    return replace(start, **moved), projection_DPF, batch


@pytest.fixture
def _constant_curvature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are relative to the support loss's curvature, which by design counts as a constant: so it has to be one."""
    seen: list[Tensor] = []

    def first_seen(gram: Tensor, n_rows: int, *, classification: bool) -> Tensor:
        if not seen:
            seen.append(curvature(gram, n_rows, classification=classification).detach())
        return seen[0]

    curvature = initialisation._curvature
    monkeypatch.setattr(initialisation, "_curvature", first_seen)


@pytest.mark.usefixtures("_constant_curvature")
@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("name", GENERATED)
def test_episode_loss_slope_equals_finite_differences(name: str, task: Task, similarity: Similarity) -> None:
    parameters, projection_DPF, batch = problem(task)

    def loss(tensor: Tensor) -> Tensor:
        return episode_loss(replace(parameters, **{name: tensor}), projection_DPF, batch, similarity)

    assert torch.autograd.gradcheck(loss, (getattr(parameters, name).clone().requires_grad_(),), atol=1e-6)


@pytest.mark.usefixtures("_constant_curvature")
@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_episode_loss_slope_along_the_projection_equals_finite_differences(task: Task, similarity: Similarity) -> None:
    # One random direction: all entries of the projections would be hundreds of evaluations.
    parameters, projection_DPF, batch = problem(task)
    direction_DPF = torch.randn(projection_DPF.shape, generator=torch.Generator().manual_seed(1)).double()

    def loss(length: Tensor) -> Tensor:
        return episode_loss(parameters, projection_DPF + length * direction_DPF, batch, similarity)

    assert torch.autograd.gradcheck(loss, (torch.zeros((), dtype=torch.float64, requires_grad=True),), atol=1e-6)


def ridge_problem(n_rows: int, width: int, n_tasks: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    rows_ESF = with_bias(torch.randn(n_tasks, n_rows, width, generator=generator).double())
    residuals_EST = torch.randn(n_tasks, n_rows, 2, generator=generator).double()
    weights_ES = 0.2 + torch.rand(n_tasks, n_rows, generator=generator).double()
    return rows_ESF, residuals_EST, weights_ES, torch.tensor([0.1, 1.0, 10.0]).double()[:n_tasks]


SHAPES = pytest.mark.parametrize(("n_rows", "width"), [(4, 6), (7, 3)], ids=["dual", "primal"])


@SHAPES
def test_ridge_slopes_equal_finite_differences(n_rows: int, width: int) -> None:
    inputs = tuple(t.requires_grad_() for t in ridge_problem(n_rows, width, n_tasks=2))
    assert torch.autograd.gradcheck(ridge_solve, inputs)


@SHAPES
def test_batched_ridge_equals_one_solve_per_task_by_normal_equations(n_rows: int, width: int) -> None:
    rows_ESF, residuals_EST, weights_ES, strength_E = ridge_problem(n_rows, width)
    changes_EFT, held_out_EST = ridge_solve(rows_ESF, residuals_EST, weights_ES, strength_E)
    for e in range(3):
        alone = ridge_solve(rows_ESF[e : e + 1], residuals_EST[e : e + 1], weights_ES[e : e + 1], strength_E[e : e + 1])
        assert torch.allclose(changes_EFT[e], alone[0][0], atol=1e-12)
        assert torch.allclose(held_out_EST[e], alone[1][0], atol=1e-12)
        penalty = strength_E[e] * torch.ones(width + 1).double()
        penalty[-1] *= 0.01
        weighted = rows_ESF[e].T * weights_ES[e]
        expected = torch.linalg.solve(weighted @ rows_ESF[e] + penalty.diag(), weighted @ residuals_EST[e])
        assert torch.allclose(changes_EFT[e], expected, atol=1e-9)


def test_ridge_row_of_no_weight_counts_as_absent() -> None:
    rows_ESF, residuals_EST, weights_ES, strength_E = ridge_problem(5, 6)
    weights_ES[:, 3:] = 0
    padded, _ = ridge_solve(rows_ESF, residuals_EST, weights_ES, strength_E)
    short, _ = ridge_solve(rows_ESF[:, :3], residuals_EST[:, :3], weights_ES[:, :3], strength_E)
    assert torch.allclose(padded, short, atol=1e-6)


def tuning_problem(*, classification: bool, width: int = 4) -> tuple[GeneratedInit, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    rows_ESF = torch.randn(2, 6, width, generator=generator).double()
    if classification:
        targets_EST = torch.eye(3).double()[torch.arange(6) % 3].expand(2, 6, 3)
    else:
        targets_EST = torch.randn(2, 6, 1, generator=generator).double()
    init = GeneratedInit(
        head_EFT=0.3 * torch.randn(2, width + 1, targets_EST.shape[2], generator=generator).double(),
        domain_weights_ED=torch.zeros(2, 0).double(),
        regularisation_E=torch.tensor([0.05, 0.4]).double(),
        step_E=torch.tensor([0.9, 0.3]).double(),
    )
    return init, rows_ESF, targets_EST


@pytest.mark.parametrize("width", [4, 9], ids=["primal", "dual"])
@pytest.mark.parametrize("classification", [True, False], ids=["classification", "regression"])
def test_fine_tuning_step_equals_autograd_descent_on_the_stated_loss(classification: bool, width: int) -> None:
    init, rows_ESF, targets_EST = tuning_problem(classification=classification, width=width)
    tuned_EFT = fine_tune(init, rows_ESF, targets_EST, steps=5, classification=classification)
    for e in range(2):
        rows, pull = with_bias(rows_ESF[e]), init.regularisation_E[e]
        top = torch.linalg.svdvals(rows)[0].square() / 6
        rate = init.step_E[e] / ((0.5 if classification else 2.0) * top + 2 * pull)
        head = init.head_EFT[e].clone().requires_grad_()
        for _ in range(5):
            outputs = rows @ head
            if classification:
                loss = torch.nn.functional.cross_entropy(outputs, targets_EST[e])
            else:
                loss = (outputs - targets_EST[e]).square().sum(-1).mean()
            (slope,) = torch.autograd.grad(loss + pull * (head - init.head_EFT[e]).square().sum(), head)
            head = (head - rate * slope).detach().requires_grad_()
        assert torch.allclose(tuned_EFT[e], head, atol=1e-10)


@pytest.mark.parametrize("classification", [True, False], ids=["classification", "regression"])
def test_fine_tuning_slopes_equal_finite_differences(classification: bool) -> None:
    init, rows_ESF, targets_EST = tuning_problem(classification=classification)

    def tuned(head_EFT: Tensor, regularisation_E: Tensor, step_E: Tensor) -> Tensor:
        start = replace(init, head_EFT=head_EFT, regularisation_E=regularisation_E, step_E=step_E)
        return fine_tune(start, rows_ESF, targets_EST, steps=4, classification=classification)

    inputs = (init.head_EFT, init.regularisation_E, init.step_E)
    assert torch.autograd.gradcheck(tuned, tuple(t.clone().requires_grad_() for t in inputs))


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_batched_generation_equals_one_task_at_a_time(task: Task) -> None:
    parameters, projection_DPF, batch = problem(task)
    parameters = replace(parameters, projection_PF=projection_DPF[0])
    together = generate(parameters, batch.task, similarity="cosine").head_EFT
    for e in range(2):
        one: dict[str, Any] = {name: t[e : e + 1] for name, t in vars(batch.task).items() if isinstance(t, Tensor)}
        alone = generate(parameters, replace(batch.task, **one), similarity="cosine").head_EFT
        assert torch.allclose(together[e], alone[0], atol=1e-10)
