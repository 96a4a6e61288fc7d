"""The losses of the first 20 meta-training steps on a small synthetic problem, to the fifth digit.

A refactoring must not move them. A change of the mathematics does, and then new ones are printed by
`python -m tests.learning.test_golden` and pasted here, with the reason in the commit. The tolerance leaves room for
other processors' float32 arithmetic, which adds up differently.
"""

import pytest
import torch

from learning.config import EpisodeOptions, MetaTrainOptions, Similarity
from learning.featurisers import Centring
from learning.meta import train_steps
from learning.parameters import default_parameters
from learning.projection import cross_fitted, initial_projection
from learning.sources import build_bank
from learning.splits import split_sources
from learning.types import Task
from tests.learning.problems import noisy, sources

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
        0.080788,
        0.096167,
        0.240121,
        0.084808,
        0.181646,
        0.279743,
        0.144247,
        0.119565,
        0.365390,
        0.192903,
        0.109692,
        0.460126,
        0.328976,
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
        0.102813,
        0.168005,
        0.303611,
        0.188219,
        0.108556,
        0.392086,
        0.223136,
        0.120502,
        0.438680,
        0.320902,
    ],
    ("regression", "cosine"): [
        0.775605,
        0.912605,
        1.211029,
        0.948724,
        1.128501,
        1.002291,
        0.767344,
        0.535649,
        0.858733,
        1.008923,
        0.833329,
        0.493709,
        0.727551,
        1.393791,
        1.606569,
        1.196916,
        0.696142,
        0.854695,
        1.177849,
        1.683670,
    ],
}


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
