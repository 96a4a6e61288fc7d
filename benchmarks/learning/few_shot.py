"""One few-shot run after another: a support is drawn, every method answers the same test rows."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.learning.baselines.problem import Baseline, Problem
from benchmarks.learning.grafted import Family
from benchmarks.learning.results import Goal, Row, at_least, at_most, mean_interval, row
from benchmarks.learning.transfer import accuracy, adapted, hits, rows
from learning.adaptation import Adaptation
from learning.calibration import expected_calibration_error
from learning.class_names import ClassNames
from learning.encoders.registry import Encoder
from learning.types import LabelledSet

STRATEGIES = ("target_only", "metric", "init", "auto")


@dataclass
class Scores:
    """Accuracy in percent by (method, shots); of `auto` also its probabilities, coverage and choice. A value a run."""

    accuracy: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    probs: dict[int, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    labels: dict[int, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    coverage: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    chosen: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))

    def strategies(
        self,
        shots: int,
        support: LabelledSet,
        encoder: Encoder,
        family: Family,
        test: LabelledSet,
        seed: int,
        class_names: ClassNames | None = None,
    ) -> None:
        """Runs every strategy of the library on one support."""
        for name in STRATEGIES:
            found = adapted(
                name, support, encoder, sources=family.sources, learner=family.learner, seed=seed,
                class_names=class_names,
            )  # fmt: skip
            self.accuracy[name, shots].append(accuracy(found, test))
            if name == "auto" and found is not None:
                self._calibration(shots, found, test)

    def baselines(self, shots: int, baselines: Mapping[str, Baseline], problem: Problem, test: LabelledSet) -> None:
        """Runs each baseline on frozen features."""
        for name, baseline in baselines.items():
            predicted_Q = baseline(problem, rows(test)).argmax(1)
            self.accuracy[name, shots].append(hits(predicted_Q, test.labels_N))

    def _calibration(self, shots: int, found: Adaptation, test: LabelledSet) -> None:
        answers = found.learner.predict(test.inputs)
        assert answers.probs_QC is not None  # noqa: S101 - it is a classification
        assert answers.sets_QC is not None  # noqa: S101
        place_C = torch.tensor([answers.classes.index(name) for name in test.classes])
        labels_Q = place_C[test.labels_N]
        self.probs[shots].append(answers.probs_QC)
        self.labels[shots].append(labels_Q)
        self.coverage[shots].append(100 * float(answers.sets_QC.gather(1, labels_Q[:, None]).double().mean()))
        self.chosen[shots].append(str(found.report["strategy"]))

    def rows(self) -> list[Row]:
        """Accuracies, ordered by shots."""
        order = sorted({shots for _, shots in self.accuracy})
        return [
            row(f"k = {shots}", method, values)
            for shots in order
            for (method, of), values in self.accuracy.items()
            if of == shots
        ]

    def accuracy_goals(self, required: Mapping[int, float]) -> list[Goal]:
        goals = []
        for shots, least in required.items():
            mean, low, high = mean_interval(self.accuracy["auto", shots])
            goals.append(at_least(f"auto at k = {shots}", mean, least, interval=(low, high)))
        return goals

    def calibration_goals(self, shots: int) -> list[Goal]:
        """Of `auto`: the calibration error, and the share of 90 % prediction sets that hold the answer.

        The error is that of all runs together: of one run's few hundred rows even perfect probabilities show some.
        """
        ece = expected_calibration_error(torch.cat(self.probs[shots]), torch.cat(self.labels[shots]))
        covered = mean_interval(self.coverage[shots])
        text = f"90 % prediction sets of auto at k = {shots} cover"
        within = Goal(
            text=text, required="88 to 92 %", value=covered[0], reached=88 <= covered[0] <= 92, interval=covered[1:]
        )
        return [at_most(f"ECE of auto at k = {shots}, all runs together", ece, 0.05), within]

    def calibration_notes(self, shots: int) -> list[str]:
        pairs = zip(self.probs[shots], self.labels[shots], strict=True)
        mean, low, high = mean_interval([expected_calibration_error(probs, labels) for probs, labels in pairs])
        return [f"ECE of auto at k = {shots} within a run: {mean:.3f} [{low:.3f}, {high:.3f}]."]

    def choices(self) -> list[str]:
        """What `auto` chose, in words."""
        said = []
        for shots, chosen in sorted(self.chosen.items()):
            counts = ", ".join(f"{name} {chosen.count(name)}" for name in sorted(set(chosen)))
            said.append(f"auto at k = {shots} chose: {counts}.")
        return said


def problem_of(support: LabelledSet, sources: Sequence[LabelledSet], seed: int) -> Problem:
    """Support and sources of the same classes as the baselines on frozen features take them."""
    return Problem(
        support_SF=rows(support),
        support_labels_S=support.labels_N,
        source_MF=torch.cat([rows(source) for source in sources]),
        source_labels_M=torch.cat([source.labels_N for source in sources]),
        n_classes=len(support.classes),
        seed=seed,
    )
