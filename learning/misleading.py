"""Whether sources mislead: whether what they say of the target's labelled rows is better than guessing.

A candidate learns from these rows too, and answers them well or badly for other reasons. The domains' own heads were
fitted without them.
"""

import math

from learning.context import TransferContext
from learning.guard import MISLEADING
from learning.sources import bank_task
from learning.support_head import support_targets
from learning.task import EVIDENCE, explained_nats
from learning.types import LabelledSet

#: Nats beyond which there is nothing left to doubt.
_CERTAIN = 50.0


def misleading_probability(context: TransferContext | None, support: LabelledSet) -> float | None:
    """That no domain's labels mean what the target's do; None of a regression, and where no domain
    knows two of the classes.

    The domain that explains the support best speaks for all, because those that do not agree with it are weighted
    down (`learning.task.domain_evidence`). Its likelihood is tempered as there, against that of guessing.
    """
    if context is None or context.bank is None or not support.classes or not context.bank.shared_with(support.classes):
        return None
    features_SF = context.featuriser.transform(support.inputs).double()
    targets_ST, scale = support_targets(support)
    task = bank_task(context.bank, features_SF, targets_ST, support.classes, scale).task
    nats = float(explained_nats(task))
    return posterior(nats) if math.isfinite(nats) else None


def posterior(nats: float) -> float:
    """Of misleading sources, given by how many nats their best domain explains the rows better than guessing."""
    odds = (1 - MISLEADING) / MISLEADING * math.exp(min(EVIDENCE * nats, _CERTAIN))
    return 1 / (1 + odds)
