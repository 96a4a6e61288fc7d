import math
from dataclasses import replace

import pytest
import torch

from learning.config import Similarity
from learning.initialisation import GeneratedInit, fine_tune, generate, init_outputs
from learning.metric import MAX_RELATIVE_WEIGHT, affinities, effective_sample_size, metric_outputs, weigh_sources
from learning.parameters import default_parameters
from learning.task import TransferTask, domain_evidence, domain_fit

F64 = torch.float64


def two_class_task(*, source_targets: list[list[float]], usable: list[float]) -> TransferTask:
    """One task: support (1, 0) of class 0 and (0, 1) of class 1; three source rows of one domain; an identity head."""
    return TransferTask(
        support_ESF=torch.eye(2, dtype=F64)[None],
        support_targets_EST=torch.eye(2, dtype=F64)[None],
        source_EMF=torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]], dtype=F64),
        source_targets_EMT=torch.tensor([source_targets], dtype=F64),
        source_usable_EM=torch.tensor([usable], dtype=F64),
        source_domain_EM=torch.zeros(1, 3, dtype=torch.int64),
        prior_EDTF=torch.eye(2, dtype=F64)[None, None],
        prior_bias_EDT=torch.zeros(1, 1, 2, dtype=F64),
        known_ED=torch.ones(1, 1, dtype=F64),
        classification=True,
    )


def test_source_weights_equal_the_hand_computed_softmax() -> None:
    task = two_class_task(source_targets=[[1, 0], [0, 1], [0, 1]], usable=[1, 1, 1])
    weighted = weigh_sources(default_parameters(2), task, similarity="cosine", strength=0.5)
    # Rows 0 and 1 sit on their own class: similarity 1, agreement 1 - 0. Row 2 sits on the other: 0 and 0 - 1.
    right, wrong = math.exp(1.0 + 1.0), math.exp(0.0 - 1.0)
    total = 2 * right + wrong
    expected = [0.5 * 3 * right / total, 0.5 * 3 * right / total, 0.5 * 3 * wrong / total]
    assert weighted.weights_EM[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("rows_per_class", [1, 8])
def test_evidence_of_many_rows_parts_a_flipped_domain_from_an_honest_one(rows_per_class: int) -> None:
    task = two_class_task(source_targets=[[1, 0], [0, 1], [1, 0]], usable=[1, 1, 1])
    heads_EDTF = torch.stack([torch.eye(2, dtype=F64), 0.9 * torch.eye(2, dtype=F64), torch.eye(2, dtype=F64).flip(0)])
    support_EST = task.support_targets_EST.repeat(1, rows_per_class, 1)
    many = replace(
        task, support_ESF=support_EST, support_targets_EST=support_EST, prior_EDTF=heads_EDTF[None],
        prior_bias_EDT=torch.zeros(1, 3, 2, dtype=F64), known_ED=torch.ones(1, 3, dtype=F64),
    )  # fmt: skip
    honest, alike, flipped = domain_evidence(many, domain_fit(many))[0].tolist()
    assert honest == alike == 0
    assert flipped < -3 if rows_per_class == 8 else -1 < flipped < -0.2


def test_source_weights_are_zero_where_the_label_is_not_the_targets() -> None:
    task = two_class_task(source_targets=[[1, 0], [0, 1], [0, 0]], usable=[1, 1, 0])
    weighted = weigh_sources(default_parameters(2), task, similarity="cosine", strength=1.0)
    assert weighted.weights_EM[0, 2] == 0
    assert weighted.weights_EM[0].sum() == pytest.approx(2.0)


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_top_k_keeps_the_most_similar_rows_of_each_class(similarity: Similarity) -> None:
    task = two_class_task(source_targets=[[1, 0], [0, 1], [0, 1]], usable=[1, 1, 1])
    weighted = weigh_sources(
        default_parameters(2),
        task,
        similarity=similarity,
        selection="top_k",
        top_k=1,
        strength=1.0,
    )
    assert (weighted.weights_EM[0] > 0).tolist() == [True, True, False]


def test_top_k_takes_no_row_of_another_class_for_a_class_with_fewer() -> None:
    task = two_class_task(source_targets=[[0, 1], [0, 1], [0, 1]], usable=[1, 1, 1])
    weighted = weigh_sources(
        default_parameters(2), task, similarity="cosine", selection="top_k", top_k=1, strength=1.0
    )  # fmt: skip
    assert (weighted.weights_EM[0] > 0).tolist() == [False, True, False]


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_source_row_of_a_class_without_support_is_neither_near_nor_far(similarity: Similarity) -> None:
    task = two_class_task(source_targets=[[1, 0], [0, 1], [0, 1]], usable=[1, 1, 1])
    task = replace(task, support_targets_EST=torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=F64))
    parameters = replace(default_parameters(2), affinity_3=torch.tensor([0.0, 1.0, 0.0], dtype=F64))
    assert affinities(parameters, task, similarity)[0].tolist() == pytest.approx([0.0, 0.0, 0.0])


def test_prototype_head_is_silent_on_a_class_without_support() -> None:
    task = two_class_task(source_targets=[[1, 0], [0, 1], [0, 1]], usable=[1, 1, 1])
    targets = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], dtype=F64)
    nothing = torch.zeros(1, 1, 3, dtype=F64)
    task = replace(
        task, support_targets_EST=targets, prior_EDTF=torch.zeros(1, 1, 3, 2, dtype=F64), prior_bias_EDT=nothing
    )
    head_FT = generate(default_parameters(2), task, similarity="cosine").head_EFT[0]
    assert head_FT[:, 2].tolist() == [0.0, 0.0, 0.0]
    assert torch.allclose(head_FT[:, 0], -head_FT[:, 1])


def test_no_source_row_counts_more_than_the_cap() -> None:
    task = two_class_task(source_targets=[[1, 0], [0, 1], [0, 1]], usable=[1, 1, 1])
    sharp = default_parameters(2)
    sharp.affinity_3.mul_(1000)
    assert float(weigh_sources(sharp, task, similarity="cosine", strength=1.0).weights_EM.max()) <= MAX_RELATIVE_WEIGHT


def test_domain_fit_is_positive_for_a_helpful_head_and_negative_for_a_flipped_one() -> None:
    honest = two_class_task(source_targets=[[1, 0], [0, 1], [0, 1]], usable=[1, 1, 1])
    flipped = replace(honest, prior_EDTF=honest.prior_EDTF.flip(2))
    assert float(domain_fit(honest)) > 0.9
    assert float(domain_fit(flipped)) < 0


def test_metric_outputs_change_nothing_in_other_tasks_of_the_batch() -> None:
    one = two_class_task(source_targets=[[1, 0], [0, 1], [0, 1]], usable=[1, 1, 1])
    other = two_class_task(source_targets=[[0, 1], [1, 0], [1, 0]], usable=[1, 0, 1])
    tensors = {name: value for name, value in vars(one).items() if name != "classification"}
    pairs = {name: torch.cat([value, getattr(other, name)]) for name, value in tensors.items()}
    both = replace(one, **pairs)  # type: ignore[arg-type]
    query = torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(0)).double()
    parameters = default_parameters(2)
    alone = metric_outputs(parameters, one, query, similarity="cosine")
    together = metric_outputs(parameters, both, query.repeat(2, 1, 1), similarity="cosine")
    assert torch.allclose(alone[0], together[0], atol=1e-12)


def test_metric_outputs_have_finite_gradients_when_rows_are_padding() -> None:
    task = two_class_task(source_targets=[[1, 0], [0, 1], [0, 0]], usable=[1, 1, 0])
    tensors = {name: t.clone().requires_grad_() for name, t in default_parameters(2, torch.eye(2)).tensors().items()}
    parameters = type(default_parameters(2)).from_tensors(tensors)
    metric_outputs(parameters, task, torch.ones(1, 3, 2, dtype=F64), similarity="cosine").square().sum().backward()
    gradients = [t.grad for t in tensors.values() if t.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_generated_head_mixes_source_heads_and_prototypes() -> None:
    task = two_class_task(source_targets=[[1, 0], [0, 1], [0, 1]], usable=[1, 1, 1])
    init = generate(default_parameters(2), task, similarity="cosine")
    source = math.exp(1.6) * torch.eye(2, dtype=F64)
    prototypes = math.exp(0.7) * torch.tensor([[0.5, -0.5], [-0.5, 0.5]], dtype=F64)
    assert torch.allclose(init.head_EFT[0, :2], source + prototypes, atol=1e-12)
    assert torch.allclose(init.head_EFT[0, 2], torch.zeros(2, dtype=F64), atol=1e-12)
    assert init.domain_weights_ED.tolist() == [[1.0]]


@pytest.mark.parametrize("classification", [True, False])
def test_fine_tuning_takes_the_step_that_autograd_would(classification: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(1, 6, 3, generator=generator).double()
    targets = torch.eye(2, dtype=F64)[torch.arange(6) % 2][None] if classification else torch.randn(1, 6, 1).double()
    start = torch.randn(1, 4, targets.shape[2], generator=generator).double()
    init = GeneratedInit(
        head_EFT=start,
        domain_weights_ED=torch.zeros(1, 0),
        regularisation_E=torch.tensor([0.1], dtype=F64),
        step_E=torch.tensor([1.0], dtype=F64),
    )
    once = fine_tune(init, rows, targets, steps=1, classification=classification)
    head = start.clone().requires_grad_()
    outputs = torch.cat([rows, torch.ones(1, 6, 1, dtype=F64)], dim=2) @ head
    if classification:
        loss = -(outputs.log_softmax(-1) * targets).sum(-1).mean()
    else:
        loss = (outputs - targets).square().sum(-1).mean()
    loss.backward()
    assert head.grad is not None
    step, gradient = once - start, -head.grad
    assert torch.allclose(step / step.norm(), gradient / gradient.norm(), atol=1e-9)
    assert float((step * gradient).sum()) > 0


def test_fine_tuning_without_steps_is_the_init() -> None:
    task = two_class_task(source_targets=[[1, 0], [0, 1], [0, 1]], usable=[1, 1, 1])
    parameters = default_parameters(2)
    init = generate(parameters, task, similarity="cosine")
    assert torch.equal(
        fine_tune(init, task.support_ESF, task.support_targets_EST, steps=0, classification=True), init.head_EFT
    )


def test_fine_tuning_lowers_the_support_loss_at_every_step() -> None:
    task = two_class_task(source_targets=[[0, 1], [1, 0], [1, 0]], usable=[1, 1, 1])
    losses = []
    for steps in range(6):
        outputs = init_outputs(default_parameters(2), task, task.support_ESF, similarity="cosine", steps=steps)
        losses.append(-float((outputs.log_softmax(-1) * task.support_targets_EST).sum(-1).mean()))
    assert losses == sorted(losses, reverse=True)


def test_effective_sample_size_counts_equal_weights_fully() -> None:
    assert effective_sample_size(torch.tensor([2.0, 2.0, 2.0])) == pytest.approx(3.0)
    assert effective_sample_size(torch.tensor([1.0, 0.0, 0.0])) == pytest.approx(1.0)
    assert effective_sample_size(torch.zeros(3)) == 0.0
