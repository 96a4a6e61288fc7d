"""Errors of the learning core.

LearningError
├── InvalidData        the examples cannot be learnt from as they are; `hint` says what to change
│   └── NonFiniteFeatures   an encoder made NaN or infinity of an input
├── InvalidOptions     a hyper-parameter is impossible for this data
├── IncompatibleDomain a source, meta-learner or artifact does not fit the target
├── InvalidArtifact    bytes that are not an artifact, are damaged, or are of an unknown format version
├── UselessModel       the fitted model is worse than always answering the majority, or the mean
│   └── NonFiniteModel      its numbers, or its held-out answers, are not finite
└── Cancelled          the caller's progress callback asked to stop
"""


class LearningError(Exception):
    """Root of everything the learning core raises on purpose.

    `code` is a stable machine-readable word; `hint` is one sentence telling what to do next.
    """

    code = "learning_error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InvalidData(LearningError):
    code = "invalid_data"


class NonFiniteFeatures(InvalidData):
    code = "non_finite_features"


class InvalidOptions(LearningError):
    code = "invalid_options"


class IncompatibleDomain(LearningError):
    code = "incompatible_domain"


class InvalidArtifact(LearningError):
    code = "invalid_artifact"


class UselessModel(LearningError):
    code = "useless_model"


class NonFiniteModel(UselessModel):
    code = "non_finite_model"


class Cancelled(LearningError):
    code = "cancelled"
