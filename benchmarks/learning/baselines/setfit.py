"""SetFit (Tunstall et al. 2022, "Efficient few-shot learning without prompts") on the same sentence encoder.

All weights of the encoder are trained on pairs of the few labelled texts (cosine similarity 1 for the same label, 0
otherwise), then a logistic regression on its embeddings. Settings are the paper's: for each text and each of 20 rounds
one pair of either kind, one epoch, batches of 16 pairs, AdamW at 2e-5 with linear warm-up over a tenth of the steps
and linear decay. That is the package setfit with `num_iterations=20`. `rounds=None` is that package's newer default,
every pair once with the rarer kind repeated to balance ("oversampling"): fewer steps, for 16 texts.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from learning.encoders.text import TextEncoder

ROUNDS = 20
BATCH = 16
LEARNING_RATE = 2e-5
WARM_UP = 0.1

Pair = tuple[int, int, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class SetFit:
    """A trained encoder and its head."""

    encoder: TextEncoder
    head: LogisticRegression

    def predict(self, texts: Sequence[str]) -> list[str]:
        return [str(label) for label in self.head.predict(self.encoder.encode(texts).double().numpy())]


def train_setfit(
    encoder: TextEncoder, texts: Sequence[str], labels: Sequence[str], *, seed: int, rounds: int | None = ROUNDS
) -> SetFit:
    """`encoder` itself stays as it is."""
    generator = torch.Generator().manual_seed(seed)
    pairs = balanced_pairs(labels, generator) if rounds is None else round_pairs(labels, rounds, generator)
    module = deepcopy(encoder.module).requires_grad_(True).train()
    # Without its packed form, which holds the weights as they were.
    tuned = replace(encoder, module=module, packed=None, fingerprint=lambda: "")
    with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
        torch.manual_seed(seed)
        _train(tuned, encoder.tokenise(texts), pairs)
    module.eval().requires_grad_(False)
    head = LogisticRegression().fit(tuned.encode(texts).double().numpy(), list(labels))
    return SetFit(encoder=tuned, head=head)


def _train(encoder: TextEncoder, tokens: list[list[int]], pairs: list[Pair]) -> None:
    optimiser = torch.optim.AdamW(encoder.module.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    n_steps = math.ceil(len(pairs) / BATCH)
    warm = max(1, math.ceil(WARM_UP * n_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(step / warm, (n_steps - step) / max(n_steps - warm, 1))
    )
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        first_BF, second_BF = (
            encoder.pool(*encoder.pad([tokens[i] for i in side]))
            for side in ([p[0] for p in batch], [p[1] for p in batch])
        )
        wanted_B = torch.tensor([pair[2] for pair in batch])
        loss = F.mse_loss(F.cosine_similarity(first_BF, second_BF), wanted_B)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.module.parameters(), 1.0)
        optimiser.step()
        schedule.step()


def round_pairs(labels: Sequence[str], rounds: int, generator: torch.Generator) -> list[Pair]:
    """For each text and round: a partner of its own label (another text where there is one) and one of another."""
    places = range(len(labels))
    pairs: list[Pair] = []
    for _ in range(rounds):
        for i in places:
            same = [j for j in places if labels[j] == labels[i] and j != i] or [i]
            other = [j for j in places if labels[j] != labels[i]]
            pairs.append((i, _pick(same, generator), 1.0))
            pairs.append((i, _pick(other, generator), 0.0))
    return _shuffled(pairs, generator)


def balanced_pairs(labels: Sequence[str], generator: torch.Generator) -> list[Pair]:
    """Every pair of two texts once; the kind that is rarer comes again until both are equally many."""
    kinds: dict[float, list[Pair]] = {1.0: [], 0.0: []}
    for i in range(len(labels)):
        for j in range(i + 1, len(labels)):
            same = float(labels[i] == labels[j])
            kinds[same].append((i, j, same))
    kinds[1.0] = kinds[1.0] or [(i, i, 1.0) for i in range(len(labels))]
    most = max(len(kind) for kind in kinds.values())
    return _shuffled([kind[k % len(kind)] for kind in kinds.values() for k in range(most)], generator)


def _pick(places: list[int], generator: torch.Generator) -> int:
    return places[int(torch.randint(len(places), (), generator=generator))]


def _shuffled(pairs: list[Pair], generator: torch.Generator) -> list[Pair]:
    order: Tensor = torch.randperm(len(pairs), generator=generator)
    return [pairs[i] for i in order.tolist()]
