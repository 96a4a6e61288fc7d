"""Rows of one batch under different grafts."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.func import functional_call

from learning.encoders.packed_bert import PackedBert
from learning.encoders.registry import load_encoder
from learning.encoders.text import TextEncoder
from learning.errors import IncompatibleDomain
from learning.grafts import Graft, Graftable
from learning.mixing import (
    FlatGraft,
    GraftLayout,
    MixedEncoder,
    flattened,
    grafted_rows,
    per_row,
    unflattened,
)
from learning.threads import each_on_a_core

TEXTS = ["x", "", "a short one", "another short one", "the same thing said at greater length, with many more words"]
N_GRAFTS = 4


class Mixable(Graftable, MixedEncoder, Protocol):
    """What both kinds of encoders are."""


def graft_of(encoder: Mixable, seed: int) -> Graft:
    generator = torch.Generator().manual_seed(seed)
    points = encoder.graft_points()
    return Graft(
        offsets={name: 0.05 * torch.randn(value.shape, generator=generator) for name, value in points.items()}
    ).stored()


class Bench:
    """An encoder, grafts of it, and what each of them alone makes of some inputs. The first graft is none."""

    def __init__(self, encoder: Mixable, inputs: list[Any]) -> None:
        self.encoder, self.inputs = encoder, inputs
        grafts = [graft_of(encoder, seed) for seed in range(1, N_GRAFTS)]
        self.flat: list[FlatGraft | None] = [None]
        self.flat += [flattened(graft, encoder.graft_points(), encoder.name) for graft in grafts]
        under = [encoder, *(encoder.grafted(graft) for graft in grafts)]
        self.alone = torch.stack([torch.cat([one.encode([value]) for value in inputs]) for one in under])

    def mixed(self, rows: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The features of (graft, input) pairs in one batch, and each alone."""
        ready = self.encoder.ready([self.inputs[place] for _, place in rows])
        features = self.encoder.encode_mixed(ready, [self.flat[graft] for graft, _ in rows])
        return features, torch.stack([self.alone[graft, place] for graft, place in rows])


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return load_encoder("minilm-l6-v2")  # type: ignore[return-value]


@pytest.fixture(scope="module")
def texts(minilm: TextEncoder) -> Bench:
    return Bench(minilm, list(TEXTS))


@pytest.fixture(scope="module")
def images() -> Bench:
    encoder = cast("Mixable", load_encoder("efficientnet-lite0-64"))
    pictures = [Image.linear_gradient("L").rotate(30 * i).convert("RGB") for i in range(3)]
    return Bench(encoder, list(pictures))


def pairs(n_inputs: int, most: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    pair = st.tuples(st.integers(0, N_GRAFTS - 1), st.integers(0, n_inputs - 1))
    return st.lists(pair, min_size=1, max_size=most)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=pairs(len(TEXTS), 24))
def test_texts_of_any_mix_are_encoded_as_each_alone(texts: Bench, rows: list[tuple[int, int]]):
    mixed, alone = texts.mixed(rows)
    torch.testing.assert_close(mixed, alone, rtol=0, atol=1e-5)


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=pairs(3, 8))
def test_images_of_any_mix_are_encoded_as_each_alone(images: Bench, rows: list[tuple[int, int]]):
    mixed, alone = images.mixed(rows)
    torch.testing.assert_close(mixed, alone, rtol=0, atol=1e-5)


def test_texts_are_encoded_as_each_alone_when_the_cores_share_them(texts: Bench, monkeypatch: pytest.MonkeyPatch):
    shared: list[int] = []

    def watched(works: Sequence[Callable[[], torch.Tensor]]) -> list[torch.Tensor]:
        shared.append(len(works))
        return each_on_a_core(works)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr("learning.encoders.text.each_on_a_core", watched)
    rows = [(number % N_GRAFTS, number * 7 % len(TEXTS)) for number in range(100)]
    features, alone = texts.mixed(rows)
    torch.testing.assert_close(features, alone, atol=1e-5, rtol=0)
    assert shared == [2]


def test_encoder_without_a_packed_form_mixes_as_well(minilm: TextEncoder, texts: Bench):
    padded = replace(minilm, packed=None)
    rows = [(i % N_GRAFTS, i % len(TEXTS)) for i in range(12)]
    ready = padded.ready([TEXTS[place] for _, place in rows])
    features = padded.encode_mixed(ready, [texts.flat[graft] for graft, _ in rows])
    torch.testing.assert_close(features, texts.mixed(rows)[1], rtol=0, atol=1e-5)


def test_grafts_do_change_what_is_encoded(texts: Bench, images: Bench):
    for bench in (texts, images):
        assert (bench.alone[1:] - bench.alone[0]).abs().amax(dim=(1, 2)).min() > 0.01


def test_flat_graft_is_the_graft_and_keeps_its_digest(minilm: TextEncoder):
    graft, points = graft_of(minilm, 1), minilm.graft_points()
    back = unflattened(flattened(graft, points, minilm.name), points)
    assert back.digest == graft.digest
    assert all(torch.equal(back.offsets[name], graft.offsets[name]) for name in points)


def test_graft_of_another_encoder_is_refused(minilm: TextEncoder, images: Bench):
    with pytest.raises(IncompatibleDomain, match="does not fit"):
        flattened(graft_of(minilm, 1), images.encoder.graft_points(), images.encoder.name)


def test_rows_that_wear_the_same_graft_share_it():
    root = torch.ones(3)
    first = FlatGraft(digest="a", offsets_P=torch.full((3,), 2.0).half())
    rows = grafted_rows([first, None, first], root)
    assert rows is not None
    assert rows.values_GP.tolist() == [[3, 3, 3], [1, 1, 1]]
    assert rows.graft_B.tolist() == [0, 1, 0]
    assert grafted_rows([None, None], root) is None


LAYERS = [(nn.LayerNorm(6), (3, 5, 6)), (nn.GroupNorm(2, 6), (3, 6, 4, 4)), (nn.BatchNorm2d(6), (3, 6, 4, 4))]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_layer_takes_scales_and_shifts_for_each_row(layer: nn.Module, shape: tuple[int, ...]):
    generator = torch.Generator().manual_seed(0)
    if isinstance(layer, nn.BatchNorm2d):
        layer.running_mean, layer.running_var = torch.rand(6, generator=generator), torch.rand(6, generator=generator)
    module = nn.Sequential(layer.eval())
    states = torch.randn(shape, generator=generator)
    values = {name: torch.randn(3, 6, generator=generator) for name in ("0.weight", "0.bias")}
    rows = functional_call(per_row(module), values, (states,))
    for place in range(3):
        own = {name: value[place] for name, value in values.items()}
        alone = functional_call(module, own, (states[place : place + 1],))
        torch.testing.assert_close(rows[place : place + 1], alone, rtol=0, atol=1e-5)


def test_layout_finds_each_point_in_the_vector():
    points = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])}
    layout = GraftLayout(points=points)
    assert layout.root.tolist() == [1, 2, 3]
    assert {name: value.tolist() for name, value in layout.split(layout.root[None]).items()} == {
        "a": [[1, 2]], "b": [[3]],
    }  # fmt: skip


def test_half_precision_stays_near(minilm: TextEncoder, texts: Bench):
    half = replace(minilm, packed=PackedBert.of(minilm.module, dtype=torch.bfloat16))
    features = half.encode([text for text in TEXTS if text])
    cosine = (features * texts.alone[0, [i for i, text in enumerate(TEXTS) if text]]).sum(1)
    assert cosine.min() > 0.999


@pytest.mark.parametrize("n_texts", [1, 3, 40, 200])
def test_texts_are_encoded_alike_when_mkl_lays_out_no_weights(
    minilm: TextEncoder, monkeypatch: pytest.MonkeyPatch, n_texts: int
):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    without = PackedBert.of(minilm.module)
    assert without is not None
    assert all(layer.widen.packed is None for layer in without.layers)
    ready = minilm.ready([TEXTS[place % len(TEXTS)] for place in range(n_texts)])
    with torch.inference_mode():
        expected = nn.functional.normalize(without(ready), dim=1)
    torch.testing.assert_close(minilm.encode_mixed(ready, [None] * n_texts), expected, atol=1e-5, rtol=0)


def test_module_of_another_kind_has_no_packed_form():
    assert PackedBert.of(nn.Linear(2, 2)) is None
