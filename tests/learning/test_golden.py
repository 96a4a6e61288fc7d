"""The losses of the first 20 meta-training steps on a small synthetic problem, to the fifth digit.

A refactoring must not move them. A change of the mathematics does, and then new ones are printed by
`python -m tests.learning.test_golden` and pasted here, with the reason in the commit. The tolerance leaves room for
other processors' float32 arithmetic, which adds up differently.
"""

from dataclasses import replace

import pytest
import torch

from learning.config import EpisodeOptions, MetaTrainOptions, Similarity
from learning.featurisers import Centring
from learning.meta import train_steps
from learning.parameters import default_parameters
from learning.projection import cross_fitted, initial_projection
from learning.sources import build_bank
from learning.splits import split_sources
from learning.types import Domain, Features, Task
from tests.learning.problems import features, sources

STEPS = 20
RELATIVE_TOLERANCE = 2e-4
GOLDEN: dict[tuple[Task, Similarity], list[float]] = {
    ("classification", "cosine"): [
        0.198017,
        0.140587,
        0.507373,
        0.022681,
        0.109376,
        0.342336,
        0.307860,
        0.080787,
        0.096167,
        0.240121,
        0.085047,
        0.181640,
        0.279966,
        0.144240,
        0.119568,
        0.363850,
        0.192904,
        0.109684,
        0.460150,
        0.328939,
    ],
    ("classification", "euclidean"): [
        0.204502,
        0.151326,
        0.440893,
        0.037487,
        0.109969,
        0.331103,
        0.302759,
        0.083298,
        0.098357,
        0.244014,
        0.103543,
        0.168019,
        0.303781,
        0.188215,
        0.108558,
        0.390196,
        0.223120,
        0.120496,
        0.439011,
        0.320850,
    ],
    ("regression", "cosine"): [
        0.776405,
        0.912278,
        1.211403,
        0.948752,
        1.128514,
        1.002173,
        0.766375,
        0.534929,
        0.856517,
        1.008599,
        0.833170,
        0.493294,
        0.727274,
        1.394738,
        1.606890,
        1.197134,
        0.696165,
        0.854694,
        1.177337,
        1.684029,
    ],
}


def noisy(domain: Domain, generator: torch.Generator) -> Domain:
    """Harder to learn: a loss near zero would have no digits to compare."""
    rows = features(domain.data).matrix_NF
    moved = Features(matrix_NF=rows + 3 * torch.randn(rows.shape, generator=generator))
    return replace(domain, data=replace(domain.data, inputs=moved))


def losses(task: Task, similarity: Similarity) -> list[float]:
    generator = torch.Generator().manual_seed(7)
    domains = [noisy(domain, generator) for domain in sources(task)]
    fitted = Centring().fit([domain.data.inputs for domain in domains])
    bank = build_bank(domains, fitted, max_rows=1000, generator=generator)
    options = MetaTrainOptions(
        steps=STEPS, projection_width=4, episodes_per_step=8, lr=5e-2, similarity=similarity,
        episode=EpisodeOptions(max_way=3, max_shot=8, n_query=12, max_source_rows=60),
    )  # fmt: skip
    split = split_sources(bank, options.episode, generator)
    start = default_parameters(bank.width, initial_projection(bank, split.metric_rows_N, 4)).to(torch.float32)
    projection_DPF = cross_fitted(bank, split.metric_rows_N, 4).float()
    reports = [report for report, _ in train_steps(start, projection_DPF, split, options, generator)]
    return [report.loss for report in reports]


CASES: tuple[tuple[Task, Similarity], ...] = (
    ("classification", "cosine"),
    ("classification", "euclidean"),
    ("regression", "cosine"),
)


@pytest.mark.parametrize(("task", "similarity"), CASES)
def test_first_losses_of_meta_training_are_the_golden_ones(task: Task, similarity: Similarity) -> None:
    assert losses(task, similarity) == pytest.approx(GOLDEN[task, similarity], rel=RELATIVE_TOLERANCE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in CASES:
        print(f"    {case}: [", *(f"        {loss:.6f}," for loss in losses(*case)), "    ],", sep="\n")  # noqa: T201
