"""Few-shot sentiment in a new review domain, beside not transferring and beside pooling everything.

    python -m benchmarks.sentiment --data ../shared/data/sentiment [--rows 500] [--test-rows 300] [--seeds 3]

Two folds: meta-train on four of the eight domains, adapt to each of the other four, then the other way round. The
test rows are the data's own test files; nothing is chosen on them. Prints one table: the mean accuracy over targets
and seeds with a 95 % interval over those runs.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from learning.adaptation import adapt
from learning.card import interval95
from learning.config import STRATEGIES, MetaTrainOptions
from learning.encoders.registry import Encoder, load_encoder
from learning.errors import UselessModel
from learning.featurisers import Centring
from learning.meta import MetaLearner, meta_train
from learning.types import Domain, Features, LabelledSet, labelled_set

DOMAINS = ("apparel", "baby", "books", "dvd", "electronics", "imdb", "toys_games", "video")
SHOTS = (1, 8, 64)
METHODS = ("target_only", "pooled", "metric", "init", "auto")


def _silent(_fraction: float, _phase: str) -> None:
    """No progress bar: the table is the output."""


def load(folder: Path, name: str, part: str, encoder: Encoder, rows: int) -> LabelledSet:
    """The first `rows` reviews of a file that mixes its classes well enough to be cut anywhere."""
    with (folder / f"{name}.{part}.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))[:rows]
    features_NF = encoder.encode([row["text"] for row in found])
    return labelled_set(Features(matrix_NF=features_NF), [row["label"] for row in found], "classification")


def few(data: LabelledSet, shots: int, seed: int) -> LabelledSet:
    """`shots` rows per class."""
    order_N = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    kept = [order_N[data.labels_N[order_N] == label][:shots] for label in range(len(data.classes))]
    return data.select(torch.cat(kept))


def pool(support: LabelledSet, sources: list[Domain]) -> LabelledSet:
    """Source and target rows as if they were one domain."""
    parts = [support, *(source.data for source in sources)]
    inputs = torch.cat([part.inputs.matrix_NF for part in parts if isinstance(part.inputs, Features)])
    labels = [part.classes[label] for part in parts for label in part.labels_N.tolist()]
    return labelled_set(Features(matrix_NF=inputs), labels, "classification")


def accuracy(
    method: str, support: LabelledSet, sources: list[Domain], learner: MetaLearner, test: LabelledSet, seed: int
) -> float:
    """Of one run; a model that the library refuses to publish counts as guessing."""
    transfers = method in {"metric", "init", "auto"}
    strategy = method if transfers else "target_only"
    try:
        adapted = adapt(
            target=Domain(name="target", data=pool(support, sources) if method == "pooled" else support),
            sources=sources if transfers else [],
            featuriser=Centring(),
            modality="text",
            encoder="minilm-l6-v2",
            encoder_revision="",
            columns={},
            strategy=strategy,
            options=STRATEGIES[strategy](max_folds=2 if method == "pooled" else 10),
            meta_learner=learner if transfers else None,
            seed=seed,
            progress=_silent,
        )
    except UselessModel:
        return 1 / len(support.classes)
    answers = adapted.learner.predict(test.inputs)
    assert answers.probs_QC is not None  # noqa: S101 - it is a classification
    order = torch.tensor([test.classes.index(name) for name in answers.classes])
    predicted_Q: Tensor = order[answers.probs_QC.argmax(1)]
    return float((predicted_Q == test.labels_N).double().mean())


def run(folder: Path, rows: int, test_rows: int, seeds: int) -> dict[tuple[str, int], list[float]]:
    """Accuracies by method and shots."""
    encoder = load_encoder("minilm-l6-v2")
    train = {name: load(folder, name, "train", encoder, rows) for name in DOMAINS}
    test = {name: load(folder, name, "test", encoder, test_rows) for name in DOMAINS}
    torch.set_num_threads(1)  # the matrices are small; more threads mostly wait for each other
    scores: dict[tuple[str, int], list[float]] = defaultdict(list)
    for chosen, targets in ((DOMAINS[:4], DOMAINS[4:]), (DOMAINS[4:], DOMAINS[:4])):
        sources = [Domain(name=name, data=train[name]) for name in chosen]
        learner = meta_train(
            sources=sources, featuriser=Centring(), modality="text", encoder="minilm-l6-v2", encoder_revision="",
            columns={}, options=MetaTrainOptions(), seed=0, progress=_silent,
        )  # fmt: skip
        for target in targets:
            for shots in SHOTS:
                for seed in range(seeds):
                    support = few(train[target], shots, seed)
                    for method in METHODS:
                        result = accuracy(method, support, sources, learner, test[target], seed)
                        scores[method, shots].append(result)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description="Few-shot sentiment in a new review domain.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/sentiment"))
    parser.add_argument("--rows", type=int, default=500, help="training rows read of each domain")
    parser.add_argument("--test-rows", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    scores = run(arguments.data, arguments.rows, arguments.test_rows, arguments.seeds)
    print(f"| method | {' | '.join(f'{shots} per class' for shots in SHOTS)} |")
    print(f"|---|{'---|' * len(SHOTS)}")
    for method in METHODS:
        cells = []
        for shots in SHOTS:
            values = [100 * value for value in scores[method, shots]]
            low, high = interval95(values)
            cells.append(f"{sum(values) / len(values):.1f} [{low:.1f}, {high:.1f}]")
        print(f"| {method} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
