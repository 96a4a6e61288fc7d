"""Which rows of the sources train a meta-learner, which start its metric, and which are held out."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learning.config import EpisodeOptions
from learning.episodes import EpisodeSampler
from learning.errors import InvalidData
from learning.sources import SourceBank

HALF = 0.5
#: Of this many classes a third can be held out, and half of the rest kept for the metric.
MANY_CLASSES = 9


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Samplers for training and for the held-out look, the rows that start the metric, and what was held out."""

    train: EpisodeSampler
    held_out: EpisodeSampler
    metric_rows_N: Tensor
    description: str


@dataclass(frozen=True, kw_only=True)
class HeldOutPart:
    """What stage A kept from the graft: a domain by name, or some classes of a lone domain."""

    domain: str | None
    classes: tuple[str, ...]

    @property
    def description(self) -> str:
        return f"domain {self.domain}" if self.domain is not None else f"{len(self.classes)} classes"

    def rows(self, bank: SourceBank) -> Tensor:
        """(N,) bool: the bank's rows that belong to it."""
        if self.domain is not None:
            return bank.domain_N == bank.names.index(self.domain)
        return torch.tensor([name in self.classes for name in bank.classes])[bank.labels_N]


def split_after_graft(
    bank: SourceBank, part: HeldOutPart, options: EpisodeOptions, generator: torch.Generator
) -> Split:
    """Episodes play in the held-out part only, the one whose features no label has shaped: half trains, half judges.

    Half of its rows; of a lone domain half of its held-out classes.
    """
    held_N = part.rows(bank)
    chosen_N = torch.rand(len(held_N), generator=generator) < HALF
    if part.domain is None:
        half_C = torch.rand(len(bank.classes), generator=generator).argsort()
        held_C = torch.tensor([name in part.classes for name in bank.classes])
        order = half_C[held_C[half_C]]
        first_C = torch.zeros(len(bank.classes), dtype=torch.bool)
        first_C[order[: (len(order) + 1) // 2]] = True
        chosen_N = first_C[bank.labels_N]
    targets = tuple(bank.domain_N[held_N].unique().tolist())
    helpers = tuple(d for d in range(len(bank.names)) if d not in targets) or targets
    train = EpisodeSampler(bank=bank, targets=targets, helpers=helpers, pool_N=held_N & chosen_N, options=options)
    split = Split(
        train=train,
        held_out=replace(train, pool_N=held_N & ~chosen_N),
        metric_rows_N=~held_N,
        description=part.description,
    )
    if split.train.is_possible and split.held_out.is_possible:
        return split
    # Too few to halve, but still unseen by the graft.
    whole = replace(train, pool_N=held_N)
    if not whole.is_possible:
        raise InvalidData("too few examples are held out of the graft", hint="add examples, or set graft.steps to 0")
    return replace(split, train=whole, held_out=whole, description=f"{part.description}, not halved")


def split_sources(bank: SourceBank, options: EpisodeOptions, generator: torch.Generator) -> Split:
    """Holds out one domain of three or more, else a third of many classes, else of the rows.

    The metric is cross-fitted over domains, so it may start from the very rows that episodes use; of a single domain it
    gets half of the classes (or rows) for itself. Where too little is left for any episode, everything is used for
    everything, and the description says so.
    """
    domains = rest = held = tuple(range(len(bank.names)))
    if len(domains) >= 3:
        held = (int(torch.randint(len(domains), (), generator=generator)),)
        rest = tuple(domain for domain in domains if domain not in held)
        held_N, description = torch.isin(bank.domain_N, torch.tensor(held)), f"domain {bank.names[held[0]]}"
    else:
        held_N, description = _part(bank, 3, generator)
    metric_N = pool_N = ~held_N
    if len(domains) == 1:
        metric_N = ~held_N & _part(bank, 2, generator)[0]
        pool_N = ~held_N & ~metric_N
    train = EpisodeSampler(bank=bank, targets=rest, helpers=rest, pool_N=pool_N, options=options)
    held_out = EpisodeSampler(bank=bank, targets=held, helpers=rest, pool_N=held_N, options=options)
    split = Split(train=train, held_out=held_out, metric_rows_N=metric_N, description=description)
    return split if train.is_possible and held_out.is_possible else _without_holding_out(split)


def _part(bank: SourceBank, share: int, generator: torch.Generator) -> tuple[Tensor, str]:
    """(N,) one `share`-th of the classes where there are many, else of the rows; and what it is, in words."""
    n_classes = len(bank.classes)
    if n_classes >= MANY_CLASSES:
        chosen_C = torch.zeros(n_classes, dtype=torch.bool)
        chosen_C[torch.randperm(n_classes, generator=generator)[: n_classes // share]] = True
        return chosen_C[bank.labels_N], f"{n_classes // share} of {n_classes} classes"
    return torch.rand(len(bank.labels_N), generator=generator) < 1 / share, f"one row in {share}"


def _without_holding_out(split: Split) -> Split:
    everything = replace(
        split.train,
        targets=tuple(range(len(split.train.bank.names))),
        helpers=tuple(range(len(split.train.bank.names))),
        pool_N=torch.ones_like(split.metric_rows_N),
    )
    return Split(
        train=everything,
        held_out=everything,
        metric_rows_N=everything.pool_N,
        description="nothing: too few rows to hold any out",
    )
