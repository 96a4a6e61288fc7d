"""What all parts start from: adapted models, their export for peers, and inputs whose label is beyond doubt."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from benchmarks.serving import curves
from benchmarks.serving.bench import Bench
from benchmarks.serving.exporting import export, export_pipeline
from benchmarks.serving.inputs import MODALITIES, Material, material, table
from benchmarks.serving.load import Generator
from benchmarks.serving.metagraft import DEFAULT_TABLE, adapted, learner_of
from benchmarks.serving.peers.served import TabularModel, load
from benchmarks.serving.systems import Input

#: Inputs whose label is known, of each modality, and how sure the model has to be of it: rounding must not decide.
KNOWN, SURE = 32, 0.55
_SEED = 1
#: Repeats, and seconds of one load, of the whole benchmark and of its short form.
WHOLE, SHORT = (6, 2.0), (3, 1.0)


def prepare(folder: Path, *, data: Path, environments: Path, quick: bool, generator: Generator) -> Bench:
    """Adapts the models and exports them. Takes about a minute."""
    materials = {modality: material(modality, data) for modality in MODALITIES}
    columns = {name: table(count) for name, count in curves.column_models().items()}
    home = adapted(folder / "home", materials | columns | {DEFAULT_TABLE: materials["tabular"]})
    known: dict[str, Sequence[tuple[Input, str]]] = {}
    labels: dict[str, Sequence[str]] = dict.fromkeys(columns, ("low", "high"))
    for modality, found in materials.items():
        learner = learner_of(home, modality)
        place = export(learner, folder / "exported" / modality / modality)
        if modality == "tabular":
            export_pipeline(found.content, place)
        labels[modality] = learner.classes
        known[modality] = _known(found, place)
    repeats, seconds = SHORT if quick else WHOLE
    return Bench(
        folder=folder, data=data, environments=environments, quick=quick, repeats=repeats, seconds=seconds,
        generator=generator, home=home, exported=folder / "exported", materials=materials, known=known, labels=labels,
    )  # fmt: skip


def _known(found: Material, exported: Path) -> list[tuple[Input, str]]:
    """Those of which the exported model is surest, as long as it is sure at all."""
    model = load(exported)
    values = list(islice(found.distinct(_SEED), 3 * KNOWN))
    rows = [[value[name] for name in model.columns] for value in values] if isinstance(model, TabularModel) else values  # type: ignore[index]
    answers = sorted(
        zip(values, model.predict(rows), strict=True), key=lambda pair: -float(pair[1]["probability"])
    )  # fmt: skip
    sure = [(value, str(answer["label"])) for value, answer in answers if answer["probability"] >= SURE]
    if not sure:
        raise RuntimeError(f"the {found.modality} model is sure of nothing")
    return sure[:KNOWN]
