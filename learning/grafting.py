"""Stage A from end to end: hold a part of the sources out, train the graft, decide whether it is worth keeping.

What follows (stage B: the metric, the generator, the card) must see sources as it will see a new target: under a graft
that never saw its rows. So the graft is trained in two goes. The first leaves the held-out part alone and gives the
`honest` graft; the second goes on over all sources and gives the graft that is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from learning.config import GraftOptions
from learning.encoders.registry import Encoder
from learning.graft_batches import RawDomain, RawRows
from learning.graft_training import GraftTrainer, Look, best_look
from learning.grafts import Graft, Graftable, is_graftable
from learning.sources import stratified_subsample
from learning.splits import HeldOutPart

#: Share of the steps and of the time budget that the second go takes.
SECOND_GO = 0.35
#: With fewer classes a lone source has none to hold out, and gets no graft.
FEWEST_CLASSES = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class Grafting:
    """`graft` is None where the rootstock did as well; `report` (JSON-able) goes into the card.

    `sources` are the sources' own grafts by name, where they were asked for.
    """

    graft: Graft | None
    honest: Graft | None
    held_out: HeldOutPart | None
    report: dict[str, Any]
    sources: Mapping[str, Graft] = field(default_factory=dict)


def no_grafting(reason: str) -> Grafting:
    return Grafting(graft=None, honest=None, held_out=None, report={"kept": False, "reason": reason})


def train_graft(
    encoder: Encoder,
    sources: Sequence[RawDomain],
    options: GraftOptions,
    generator: torch.Generator,
    progress: Callable[[float], None],
) -> Grafting:
    """The graft of a family of domains. `progress` gets the fraction done and may raise `Cancelled`.

    Sources that no episode can be drawn from, or an encoder without normalisation layers, give none, with the reason.

    Raises:
        InvalidData: an input cannot be read.
    """
    if options.steps == 0 or not is_graftable(encoder):
        why = "not asked for" if options.steps == 0 else f"{encoder.name} has no normalisation layers that can be moved"
        return no_grafting(why)
    graftable = cast("Graftable", encoder)
    rows, n_vectors = _prepared(graftable, sources, options)
    part = _choose_part(sources, rows, generator)
    if part is None:
        return no_grafting("no part of the sources can be held out")
    kept, held = _apart(sources, rows, part)
    if len(held.by_vector) < 2 or not any(len(domain.by_vector) > 1 for domain in kept):
        return no_grafting("too few examples to hold any out")
    trainer = GraftTrainer(graftable, n_vectors, options, generator)
    trainer.place_vectors(kept)
    sample = _sample(held, options.held_out_rows, generator)
    honest, looks = trainer.train(
        kept, sample, steps=options.steps, budget_s=(1 - SECOND_GO) * options.time_budget_s,
        progress=lambda done: progress((1 - SECOND_GO) * done),
    )  # fmt: skip
    best = best_look(looks)
    report = _report(looks, best, part, honest)
    if best.step == 0:
        reason = "the rootstock did as well on the held-out part"
        return Grafting(graft=None, honest=None, held_out=None, report=report | {"kept": False, "reason": reason})
    trainer.place_vectors(rows)
    final, _ = trainer.train(
        rows, None, steps=round(SECOND_GO * best.step), budget_s=SECOND_GO * options.time_budget_s,
        progress=lambda done: progress(1 - SECOND_GO + SECOND_GO * done),
    )  # fmt: skip
    if not final.is_finite:
        return no_grafting("training diverged: choose a smaller graft.lr")
    own = _own_grafts(trainer, sources, rows, options, progress)
    return Grafting(graft=final, honest=honest, held_out=part, report=report | {"kept": True}, sources=own)


def _own_grafts(
    trainer: GraftTrainer,
    sources: Sequence[RawDomain],
    rows: Sequence[RawRows],
    options: GraftOptions,
    progress: Callable[[float], None],
) -> dict[str, Graft]:
    """Every source's own graft, where they were asked for. The time budget is for all of them."""
    if not options.source_steps or len(sources) == 1:
        return {}
    budget_s = options.time_budget_s / len(sources)
    found = {
        source.name: trainer.branch(
            domain, steps=options.source_steps, budget_s=budget_s, progress=lambda _done: progress(1.0)
        )
        for source, domain in zip(sources, rows, strict=True)
        if len(domain.by_vector) > 1
    }
    return {name: graft for name, graft in found.items() if graft.is_finite}


def _sample(held: RawRows, n_rows: int, generator: torch.Generator) -> RawRows:
    """About `n_rows` rows, of which at least two classes have two."""
    rows = held.select(stratified_subsample(held.vector_N, n_rows, generator))
    if len(rows.by_vector) > 1:
        return rows
    # More classes than rows: two rows of some say more than one row of each.
    found = list(held.by_vector.values())
    picks = torch.randperm(len(found), generator=generator)[: max(2, n_rows // 2)].tolist()
    return held.select(torch.cat([found[i][:2] for i in picks]))


def _prepared(encoder: Graftable, sources: Sequence[RawDomain], options: GraftOptions) -> tuple[list[RawRows], int]:
    """Every source's rows, with classes numbered by name over all sources."""
    names = sorted({name for source in sources for name in source.classes})
    number = {name: i for i, name in enumerate(names)}
    rows = []
    turns = 4 if options.augmentation == "affine_and_turns" else 1
    for source in sources:
        prepared = encoder.prepare(source.inputs, limit=options.max_tokens)
        vector_of_C = torch.tensor([number[name] for name in source.classes])
        size_N = torch.tensor([encoder.size_of(item) for item in prepared])
        vector_N = vector_of_C[source.labels_N]
        rows.append(
            RawRows(
                prepared=[encoder.turned(item, quarters) for quarters in range(turns) for item in prepared],
                size_N=size_N.repeat(turns),
                vector_N=torch.cat([vector_N + quarters * len(names) for quarters in range(turns)]),
            )
        )
    return rows, turns * len(names)


def _choose_part(
    sources: Sequence[RawDomain], rows: Sequence[RawRows], generator: torch.Generator
) -> HeldOutPart | None:
    """A domain of several; of one, a third of its classes. None where neither can be."""
    playable = [d for d, domain in enumerate(rows) if len(domain.by_vector) > 1]
    if len(sources) > 1:
        if len(playable) < 2:
            return None
        chosen = playable[int(torch.randint(len(playable), (), generator=generator))]
        return HeldOutPart(domain=sources[chosen].name, classes=())
    counts_C = torch.bincount(sources[0].labels_N, minlength=len(sources[0].classes))
    classes = [name for name, count in zip(sources[0].classes, counts_C.tolist(), strict=True) if count > 1]
    if len(classes) < FEWEST_CLASSES:
        return None
    order = torch.randperm(len(classes), generator=generator)[: len(classes) // 3].tolist()
    return HeldOutPart(domain=None, classes=tuple(sorted(classes[c] for c in order)))


def _apart(sources: Sequence[RawDomain], rows: Sequence[RawRows], part: HeldOutPart) -> tuple[list[RawRows], RawRows]:
    """The rows to train on, domain by domain, and those held out."""
    if part.domain is not None:
        names = [source.name for source in sources]
        held = rows[names.index(part.domain)]
        return [domain for domain, name in zip(rows, names, strict=True) if name != part.domain], held
    held_C = torch.tensor([name in part.classes for name in sources[0].classes])
    # Turned copies of the rows follow the rows themselves.
    held_N: Tensor = held_C[sources[0].labels_N].repeat(len(rows[0]) // len(sources[0]))
    return [rows[0].select((~held_N).nonzero()[:, 0])], rows[0].select(held_N.nonzero()[:, 0])


def _report(looks: Sequence[Look], best: Look, part: HeldOutPart, graft: Graft) -> dict[str, Any]:
    return {
        "held_out": part.description,
        "steps": best.step,
        "held_out_loss": {"rootstock": looks[0].held_out, "graft": best.held_out},
        "numbers": graft.n_numbers,
        "seconds": looks[-1].seconds,
        "looks": [{"step": look.step, "loss": look.loss, "held_out_loss": look.held_out} for look in looks],
    }
