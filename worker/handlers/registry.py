"""Which function runs which kind of job."""

from collections.abc import Callable, Mapping

from app.dependencies import Services
from app.jobs.lifecycle import Claim
from app.jobs.parts import PartClaim
from learning.types import Progress
from worker.handlers import adapt, batch_predict, meta_train

#: Whether the result was published: False where the claim no longer stands or a cancel came at the last moment.
Handler = Callable[[Services, Claim, Progress], bool]

HANDLERS: Mapping[str, Handler] = {
    "adapt": adapt.run,
    "meta_train": meta_train.run,
    "batch_predict": batch_predict.run,
}

#: Of the kinds that are shared, which function works on a part for another worker, and whether that was still wanted.
HELPERS: Mapping[str, Callable[[Services, PartClaim, Progress], bool]] = {"batch_predict": batch_predict.help_with}
