"""Transfer tasks drawn from source domains: one domain plays the target, the others its sources.

The episodes of one batch share their number of ways and shots, so they need no padding but in the source rows. Some
episodes get deliberately mislabelled sources, so that a meta-learner also learns when not to transfer.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from learning.config import EpisodeOptions
from learning.errors import InvalidData
from learning.sources import SourceBank
from learning.task import TransferTask

#: A regression support smaller than this says nothing about a slope.
MIN_REGRESSION_ROWS = 4
FEWEST_SOURCE_ROWS = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class EpisodeBatch:
    """`task` holds E tasks, `query_EQF` their queries and `query_targets_EQT` the answers (one-hot or standardised).

    `domain_E` is the domain that plays the target. `alone_support_ESG` and `alone_query_EQG` are the same rows as a
    learner that transfers nothing sees them.
    """

    task: TransferTask
    domain_E: Tensor
    query_EQF: Tensor
    query_targets_EQT: Tensor
    alone_support_ESG: Tensor
    alone_query_EQG: Tensor
    shots: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Draw:
    """One episode as bank rows. `classes_C` is the order of its outputs; rows are grouped by class in that order."""

    domain: int
    classes_C: Tensor
    support_S: Tensor
    query_Q: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class EpisodeSampler:
    """Draws episodes from `bank`: `targets` may play the target domain, `helpers` may be sources.

    `pool_N` (bool) limits the rows that supports and queries are drawn from.
    """

    bank: SourceBank
    targets: tuple[int, ...]
    helpers: tuple[int, ...]
    pool_N: Tensor
    options: EpisodeOptions

    @cached_property
    def _pools(self) -> dict[int, dict[int, Tensor]]:
        """Rows by target domain and class; a regression domain is one group."""
        pools: dict[int, dict[int, Tensor]] = {}
        for domain in self.targets:
            rows_N = ((self.bank.domain_N == domain) & self.pool_N).nonzero()[:, 0]
            labels_N = self.bank.labels_N[rows_N]
            pools[domain] = {int(label): rows_N[labels_N == label] for label in labels_N.unique()}
        return pools

    @property
    def _fewest_ways(self) -> int:
        return 2 if self.bank.classification else 1

    @property
    def is_possible(self) -> bool:
        """Whether any domain has enough classes with a support and a query row."""
        return bool(self._able(1, self._fewest_ways))

    def _able(self, shots: int, ways: int) -> dict[int, list[int]]:
        """Domains with at least `ways` classes of more than `shots` rows, and those classes."""
        rich = {d: [c for c, rows in pool.items() if len(rows) > shots] for d, pool in self._pools.items()}
        return {domain: classes for domain, classes in rich.items() if len(classes) >= ways}

    def draw(
        self,
        n_episodes: int,
        generator: torch.Generator,
        *,
        shots: int | None = None,
        ways: int | None = None,
        all_sources: bool = False,
    ) -> EpisodeBatch:
        """`n_episodes` tasks of one shape; shots and ways are log-uniform unless given, fewer where rows are short.

        So is the number of source rows, unless `all_sources` asks for as many as the options allow.

        Raises `InvalidData` where no domain has enough rows for any episode.
        """
        shots = shots or _log_uniform(1, self.options.max_shot, generator)
        if not self.bank.classification:
            shots = max(shots, MIN_REGRESSION_ROWS)
        while shots > 1 and not self._able(shots, self._fewest_ways):
            shots = shots // 2
        able = self._able(shots, self._fewest_ways)
        if not able:
            raise InvalidData("no source domain has two classes with two examples each", hint="add examples or sources")
        most_ways = min(self.options.max_way, max(len(classes) for classes in able.values()))
        ways = min(ways, most_ways) if ways else _log_uniform(self._fewest_ways, most_ways, generator)
        able = self._able(shots, ways)
        domains = sorted(able)
        picks = torch.randint(len(domains), (n_episodes,), generator=generator).tolist()
        draws = [self._draw_one(domains[pick], able[domains[pick]], ways, shots, generator) for pick in picks]
        most = self.options.max_source_rows
        n_source = most if all_sources else _log_uniform(min(FEWEST_SOURCE_ROWS, most), most, generator)
        return self._assemble(draws, shots, n_source, generator)

    def _draw_one(self, domain: int, classes: list[int], ways: int, shots: int, generator: torch.Generator) -> _Draw:
        chosen_C = torch.tensor(classes)[torch.randperm(len(classes), generator=generator)[:ways]]
        n_query = max(1, self.options.n_query // ways)
        support, query = [], []
        for label in chosen_C.tolist():
            rows = self._pools[domain][label]
            rows = rows[torch.randperm(len(rows), generator=generator)]
            support.append(rows[:shots])
            rest = rows[shots:]
            # A short class repeats its query rows: batches need one shape, and a repeated row only weighs more.
            query.append(rest[torch.arange(n_query) % len(rest)])
        return _Draw(domain=domain, classes_C=chosen_C, support_S=torch.cat(support), query_Q=torch.cat(query))

    def _source_rows(self, draw: _Draw, n_rows: int, generator: torch.Generator) -> Tensor:
        """Rows of the helpers, not of the target domain, whose label is one of the episode's."""
        helps_D = torch.zeros(len(self.bank.names), dtype=torch.bool)
        helps_D[list(self.helpers)] = True
        helps_D[draw.domain] = False
        wanted_C = torch.zeros(max(len(self.bank.classes), 1), dtype=torch.bool)
        wanted_C[draw.classes_C] = True
        rows = (helps_D[self.bank.domain_N] & wanted_C[self.bank.labels_N]).nonzero()[:, 0]
        return rows[torch.randperm(len(rows), generator=generator)[:n_rows]]

    def _assemble(self, draws: list[_Draw], shots: int, n_source: int, generator: torch.Generator) -> EpisodeBatch:
        source_rows = [self._source_rows(draw, n_source, generator) for draw in draws]
        n_source = max(len(rows) for rows in source_rows)
        source_EM = torch.stack([_pad(rows, n_source) for rows in source_rows])
        usable_EM = torch.stack([_pad(torch.ones_like(rows), n_source) for rows in source_rows])
        classes_EC = torch.stack([draw.classes_C for draw in draws])
        support_ES = torch.stack([draw.support_S for draw in draws])
        query_EQ = torch.stack([draw.query_Q for draw in draws])
        alone_NG = self.bank.features_NF if self.bank.alone_NG is None else self.bank.alone_NG
        shift_ED = self._hostile_shifts(len(draws), classes_EC.shape[1], generator)
        known_ED, prior_EDTF, prior_bias_EDT = self._priors(draws, classes_EC)
        targets = [self._targets(rows_EN, classes_EC, support_ES) for rows_EN in (support_ES, query_EQ, source_EM)]
        support_ESF, query_EQF = self.bank.features_NF[support_ES], self.bank.features_NF[query_EQ]
        if self.bank.classification:
            unaided_E = (usable_EM.sum(1) + known_ED.sum(1)) == 0
            support_ESF, query_EQF = around_support(support_ESF, query_EQF, unaided_E)
        task = TransferTask(
            support_ESF=support_ESF,
            support_targets_EST=targets[0],
            source_EMF=self.bank.features_NF[source_EM],
            source_targets_EMT=self._mislead(targets[2], shift_ED.gather(1, self.bank.domain_N[source_EM])),
            source_usable_EM=usable_EM.float(),
            source_domain_EM=self.bank.domain_N[source_EM],
            prior_EDTF=self._mislead(prior_EDTF, shift_ED),
            prior_bias_EDT=self._mislead(prior_bias_EDT, shift_ED),
            known_ED=known_ED,
            classification=self.bank.classification,
        )
        return EpisodeBatch(
            task=task,
            domain_E=torch.tensor([draw.domain for draw in draws]),
            query_EQF=query_EQF,
            query_targets_EQT=targets[1],
            alone_support_ESG=alone_NG[support_ES],
            alone_query_EQG=alone_NG[query_EQ],
            shots=shots,
        )

    def _targets(self, rows_EN: Tensor, classes_EC: Tensor, support_ES: Tensor) -> Tensor:
        """(E, N, T) one-hot in the episode's class order, or labels standardised by the episode's support."""
        if self.bank.classification:
            return (self.bank.labels_N[rows_EN][..., None] == classes_EC[:, None]).float()
        mean_E1, deviation_E1 = self._label_scales(support_ES)
        return ((self.bank.values_N[rows_EN] - mean_E1) / deviation_E1)[..., None].float()

    def _label_scales(self, support_ES: Tensor) -> tuple[Tensor, Tensor]:
        """(E, 1) each support's mean and deviation, as `label_scale` has them: a constant support counts in units."""
        support = self.bank.values_N[support_ES]
        deviation_E1 = support.std(1, correction=0, keepdim=True)
        return support.mean(1, keepdim=True), torch.where(deviation_E1 > 1e-9, deviation_E1, 1.0)

    def _priors(self, draws: list[_Draw], classes_EC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whether each domain may help (E, D), and its head (E, D, T, F) and bias in the episode's outputs."""
        helps_D = torch.zeros(len(self.bank.names))
        helps_D[list(self.helpers)] = 1.0
        helps_ED = helps_D.repeat(len(draws), 1)
        helps_ED[torch.arange(len(draws)), torch.tensor([draw.domain for draw in draws])] = 0.0
        prior_EDTF = self.bank.head_DTF[:, classes_EC].transpose(0, 1)
        prior_bias_EDT = self.bank.head_bias_DT[:, classes_EC].transpose(0, 1)
        has_EDT = self.bank.knows_DT[:, classes_EC].transpose(0, 1)
        if not self.bank.classification:
            mean_E1, deviation_E1 = self._label_scales(torch.stack([draw.support_S for draw in draws]))
            weight_EDTF = prior_EDTF / deviation_E1[..., None, None]
            return (
                helps_ED,
                weight_EDTF.float(),
                ((prior_bias_EDT - mean_E1[..., None]) / deviation_E1[..., None]).float(),
            )
        prior_EDTF = prior_EDTF.float()
        prior_bias_EDT = torch.where(has_EDT, prior_bias_EDT.float(), torch.tensor(1.0 / classes_EC.shape[1]))
        return helps_ED * (has_EDT.sum(-1) >= 2), prior_EDTF * has_EDT[..., None], prior_bias_EDT

    def _hostile_shifts(self, n_episodes: int, n_outputs: int, generator: torch.Generator) -> Tensor:
        """(E, D) how far a domain's classes are rotated: 0 is honest. A hostile episode has all or half of them so."""
        n_domains = len(self.bank.names)
        hostile_E1 = torch.rand(n_episodes, 1, generator=generator) < self.options.hostile
        all_E1 = torch.rand(n_episodes, 1, generator=generator) < 0.5
        half_ED = torch.rand(n_episodes, n_domains, generator=generator) < 0.5
        shift_ED = torch.randint(1, max(n_outputs, 2), (n_episodes, n_domains), generator=generator)
        return torch.where(hostile_E1 & (all_E1 | half_ED), shift_ED, 0)

    def _mislead(self, values: Tensor, shift: Tensor) -> Tensor:
        """`values` with output axis T rotated by `shift` (classification) or negated where shifted (regression).

        The axis is the last of targets (E, M, T) and biases (E, D, T) and the third of heads (E, D, T, F).
        """
        if not self.bank.classification:
            sign = 1.0 - 2.0 * (shift > 0).to(values)
            return values * sign.reshape(*sign.shape, *[1] * (values.ndim - 2))
        n_outputs = values.shape[2]
        index = (torch.arange(n_outputs) - shift[..., None]) % n_outputs
        return values.gather(2, index.reshape(*index.shape, *[1] * (values.ndim - 3)).expand_as(values))


def around_support(support_ESF: Tensor, query_EQF: Tensor, unaided_E: Tensor) -> tuple[Tensor, Tensor]:
    """Rows centred on the support and scaled by it where `unaided_E` (bool), as in adaptation if no class is shared."""
    mean_E1F = support_ESF.mean(1, keepdim=True)
    spread_E11 = (support_ESF - mean_E1F).square().sum(-1, keepdim=True).mean(1, keepdim=True).sqrt()
    spread_E11 = torch.where(spread_E11 > 1e-6, spread_E11, 1.0)
    mask_E11 = unaided_E[:, None, None]
    return (
        torch.where(mask_E11, (support_ESF - mean_E1F) / spread_E11, support_ESF),
        torch.where(mask_E11, (query_EQF - mean_E1F) / spread_E11, query_EQF),
    )


def _pad(rows: Tensor, length: int) -> Tensor:
    """`rows` with zeros up to `length`."""
    return torch.cat([rows, rows.new_zeros(length - len(rows))])


def _log_uniform(low: int, high: int, generator: torch.Generator) -> int:
    """An integer in [low, high], equally likely in every octave."""
    if high <= low:
        return low
    u = float(torch.rand((), generator=generator))
    return min(high, int(math.exp(math.log(low) + u * (math.log(high + 1) - math.log(low)))))
