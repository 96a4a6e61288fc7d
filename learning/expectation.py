"""What transferring is expected to gain before a row of the target is looked at, and who says so."""

from collections.abc import Mapping
from typing import Any

from learning.card import card_of_sources
from learning.config import TRANSFER, AutoOptions, StrategyOptions
from learning.context import TransferContext
from learning.guard import card_prior, is_meta_trained
from learning.meta import MetaLearner
from learning.types import LabelledSet


def expectation(
    options: StrategyOptions, context: TransferContext | None, support: LabelledSet, meta_learner: MetaLearner | None,
    seed: int,
) -> Mapping[str, Any] | None:  # fmt: skip
    """The meta-learner's card, or that of the job's own sources where there is no other or theirs refutes it.

    A meta-learner promises what honest sources like its own gave. Those of a job may be mislabelled or of another
    matter, and then are of less use to each other too.
    """
    promised = meta_learner.card if meta_learner is not None else None
    found = _of_sources(options, context, support, seed)
    if promised is None or found is None:
        return promised if found is None else found
    return found if _refutes(found, promised, support.shots) else promised


def expected_gain(card: Mapping[str, Any] | None, support: LabelledSet) -> dict[str, Any] | None:
    """For the report: the gain that `card` leads to expect of each transfer learner, and whose it is."""
    if card is None:
        return None
    gains = {name: card_prior(card, name, support.shots).mean for name in TRANSFER}
    return {"from": "meta_learner" if is_meta_trained(card) else "sources", **gains}


def _of_sources(
    options: StrategyOptions, context: TransferContext | None, support: LabelledSet, seed: int
) -> Mapping[str, Any] | None:
    """What the sources gain from each other, where `auto` has to judge them and they name classes of the target."""
    if not isinstance(options, AutoOptions) or context is None or context.bank is None:
        return None
    if support.classes and not context.bank.shared_with(support.classes):
        return None
    return card_of_sources(
        context.bank, context.parameters, similarity=context.similarity, shots=support.shots,
        ways=len(support.classes), seed=seed,
    )  # fmt: skip


def _refutes(found: Mapping[str, Any], promised: Mapping[str, Any], shots: float) -> bool:
    """Whether the sources promise nothing, and of some learner the whole interval of the gain is below the promised.

    Sources that promise anything are no reason to doubt: read under a meta-learner's graft, as they are, not
    transferring is better than the card knows it, and every gain smaller.
    """
    pairs = [tuple(card_prior(card, name, shots) for card in (found, promised)) for name in TRANSFER]
    if any(own.promised for own, _ in pairs):
        return False
    return any(own.interval[1] < told.interval[0] for own, told in pairs)
