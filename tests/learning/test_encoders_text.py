import pytest
import torch

from learning.encoders.registry import load_encoder
from learning.encoders.text import TextEncoder, load_minilm
from learning.errors import InvalidData, InvalidOptions

TEXTS = [
    "The flight to Lisbon leaves at nine.",
    "cat",
    "My plane to Portugal departs in the morning.",
    "A recipe for onion soup that takes three hours, two pots, and more butter than anyone would like to admit.",
    "",
]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_minilm()


@pytest.fixture(scope="module")
def features(encoder: TextEncoder) -> torch.Tensor:
    return encoder.encode(TEXTS)


def test_text_encoder_returns_unit_float32_rows_when_encoding(features):
    assert features.shape == (5, 384)
    assert features.dtype == torch.float32
    assert torch.allclose(features.norm(dim=1), torch.ones(5), atol=1e-5)


def test_text_encoder_gives_the_known_features_when_given_a_fixed_sentence(features):
    expected = torch.tensor([0.0990, 0.0308, -0.0040, 0.0555, 0.0929, 0.0905])
    assert torch.allclose(features[0, :6], expected, atol=1e-3)


def test_text_encoder_does_not_depend_on_batch_mates_when_texts_are_encoded_alone(encoder, features):
    alone = torch.cat([encoder.encode([text]) for text in TEXTS])
    assert torch.allclose(alone, features, atol=1e-5)


def test_text_encoder_keeps_the_order_when_inputs_are_permuted(encoder, features):
    assert torch.allclose(encoder.encode(TEXTS[::-1], batch_size=2), features.flip(0), atol=1e-5)


def test_text_encoder_puts_paraphrases_closest_when_compared_by_cosine(features):
    similarity_NN = features @ features.T
    assert similarity_NN[0].topk(2).indices.tolist() == [0, 2]


def test_text_encoder_reports_rows_done_when_progress_is_given(encoder):
    done: list[int] = []
    encoder.encode(TEXTS, batch_size=2, progress=done.append)
    assert done == [2, 4, 5]


def test_text_encoder_returns_no_rows_when_given_none(encoder):
    assert encoder.encode([]).shape == (0, 384)


def test_text_encoder_ignores_the_rest_when_a_text_exceeds_the_maximum_length(encoder):
    cut, longer = encoder.tokenise(["word " * 300, "word " * 300 + "extra"])
    assert cut == longer
    assert len(cut) == 256


def test_text_features_are_usable_in_autograd_when_returned(features):
    weight = torch.zeros(384, requires_grad=True)
    (features @ weight).sum().backward()
    assert weight.grad is not None


def test_text_encoder_names_the_row_when_an_input_is_no_string(encoder):
    with pytest.raises(InvalidData, match="text 2: expected a string, got int"):
        encoder.encode(["fine", 3])


def test_text_encoder_gives_finite_features_when_text_has_lone_surrogates_and_controls(encoder):
    assert encoder.encode(["\ud800 \x00 \u202e", "🙂" * 400]).isfinite().all()


def test_text_encoder_leaves_the_global_generator_alone_when_loaded():
    before = torch.get_rng_state()
    load_minilm()
    assert torch.equal(torch.get_rng_state(), before)


def test_text_encoder_revision_changes_only_with_what_features_depend_on(encoder):
    assert len(encoder.revision) == 12
    assert encoder.revision == load_minilm().revision
    assert encoder.revision != load_minilm(max_length=64).revision


def test_hf_encoder_gives_the_same_features_when_pointed_at_a_local_folder(encoder, features):
    folder = encoder.module.config._name_or_path
    local = load_encoder(f"hf:{folder}")
    assert local.name == f"hf:{folder}"
    assert local.revision == encoder.revision
    assert torch.equal(local.encode(TEXTS), features)


def test_hf_encoder_explains_when_a_folder_holds_no_model(tmp_path):
    with pytest.raises(InvalidOptions, match="transformers cannot load"):
        load_encoder(f"hf:{tmp_path}")
