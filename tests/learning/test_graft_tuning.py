"""LP-FT: a tuned graft replaces what it started from only where held-out rows say so, and is stored with the model."""

import pytest
import torch

from learning.adaptation import Adaptation, adapt
from learning.artifact import dump_learner, dump_meta_learner, load_learner, load_meta_learner
from learning.config import InitOptions, MetaTrainOptions
from learning.encoders.registry import load_encoder
from learning.featurisers import Centring
from learning.graft_tuning import MIN_ROWS, TargetEncoding, mixed_start
from learning.grafts import Graft, Graftable
from learning.meta import MetaLearner, meta_train
from learning.types import Domain, Features, LabelledSet, labelled_set

WORDS = {"good": ("splendid", "lovely", "superb", "solid"), "bad": ("dreadful", "awful", "horrid", "broken")}
THINGS = {"garden": ("hose", "spade", "rake", "hedge", "bench", "pond", "fence", "shed"),
          "kitchen": ("pan", "kettle", "knife", "oven", "spoon", "bowl", "sink", "fridge"),
          "music": ("violin", "drum", "amp", "flute", "piano", "horn", "cello", "harp")}  # fmt: skip


def texts_of(domain: str) -> tuple[list[str], list[str]]:
    pairs = [(f"this {thing} is {word}", y) for thing in THINGS[domain] for y in WORDS for word in WORDS[y]]
    return [text for text, _ in pairs], [y for _, y in pairs]


@pytest.fixture(scope="module")
def minilm() -> Graftable:
    return load_encoder("minilm-l6-v2")  # type: ignore[return-value]


def noise(encoder: Graftable, scale: float, seed: int = 0) -> Graft:
    generator = torch.Generator().manual_seed(seed)
    points = encoder.graft_points()
    return Graft(offsets={n: scale * torch.randn(v.shape, generator=generator) for n, v in points.items()}).stored()


def encoded(encoder: Graftable, graft: Graft, domain: str, labels: list[str] | None = None) -> LabelledSet:
    texts, own = texts_of(domain)
    views = {graft.digest: encoder.grafted(graft).encode(texts)}
    features = Features(matrix_NF=encoder.encode(texts), grafted=views)
    return labelled_set(features, labels or own, "classification")


@pytest.fixture(scope="module")
def learner(minilm: Graftable) -> MetaLearner:
    """Its graft is noise: tuning has much to mend."""
    graft = noise(minilm, 0.6)
    return meta_train(
        sources=[Domain(name=name, data=encoded(minilm, graft, name)) for name in ("garden", "kitchen")],
        featuriser=Centring(graft=graft.digest), modality="text", encoder=minilm.name,
        encoder_revision=minilm.revision, columns={}, options=MetaTrainOptions(steps=0, evaluation_episodes=4),
        seed=0, progress=lambda _fraction, _phase: None, graft=graft,
        source_grafts={"garden": noise(minilm, 0.25, seed=1)},
    )  # fmt: skip


def tuned(encoder: Graftable, learner: MetaLearner, labels: list[str] | None = None) -> Adaptation:
    assert learner.graft is not None
    return adapt(
        target=Domain(name="music", data=encoded(encoder, learner.graft, "music", labels)), sources=[],
        featuriser=Centring(), modality="text", encoder=encoder.name, encoder_revision=encoder.revision, columns={},
        strategy="init", options=InitOptions(graft_steps=24, graft_lr=5e-3), meta_learner=learner, seed=0,
        progress=lambda _fraction, _phase: None,
        encoding=TargetEncoding(encoder=encoder, inputs=texts_of("music")[0]),
    )  # fmt: skip


def test_tuning_that_pays_is_kept_and_travels_with_the_model(minilm: Graftable, learner: MetaLearner):
    adaptation = tuned(minilm, learner)
    graft = adaptation.learner.graft
    assert graft is not None
    assert learner.graft is not None
    assert graft.digest != learner.graft.digest
    assert adaptation.report["graft"]["from"] == "target"
    assert adaptation.report["graft"]["gain"]["value"] > 0
    texts, labels = texts_of("garden")
    again = load_learner(dump_learner(adaptation.learner))
    assert again.graft is not None
    assert again.graft.digest == graft.digest
    queries = Features.only(minilm.grafted(again.graft).encode(texts), again.graft.digest)
    probs_QC = again.predict(queries).probs_QC
    assert probs_QC is not None
    right = [again.classes[c] == y for c, y in zip(probs_QC.argmax(1).tolist(), labels, strict=True)]
    assert sum(right) / len(right) > 0.8


def test_tuning_on_labels_without_meaning_is_dropped(minilm: Graftable, learner: MetaLearner):
    labels = [("good", "bad")[i % 3 == 0] for i in torch.randperm(64, generator=torch.Generator().manual_seed(3))]
    assert len(labels) >= MIN_ROWS
    adaptation = tuned(minilm, learner, labels)
    assert adaptation.report["graft"]["from"] == "meta_learner"


def test_start_is_mixed_by_the_weights_of_the_sources(minilm: Graftable, learner: MetaLearner):
    again = load_meta_learner(dump_meta_learner(learner))
    assert again.graft is not None
    own = again.source_grafts["garden"]
    for weight in (0.0, 0.25, 1.0):
        start = mixed_start(again, {"garden": weight, "kitchen": 1 - weight})
        assert start is not None
        for name, offset in start.offsets.items():
            expected = (1 - weight) * again.graft.offsets[name] + weight * own.offsets[name]
            torch.testing.assert_close(offset, expected, rtol=0, atol=2e-3)
