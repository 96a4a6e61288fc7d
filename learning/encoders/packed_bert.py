"""A BERT encoder over texts laid end to end, so that nothing is spent on padding, and each row may wear its own graft.

Letters in shape suffixes besides those of `learning.types`: B texts, T tokens of all texts, L tokens of one text,
G distinct grafts, H attention heads.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learning.grafts import graft_points
from learning.mixing import GraftedRows, GraftLayout
from learning.threads import on_all_cores

#: Rows that MKL is told to lay a weight out for. Any number of them may come; around this one texts are encoded most.
_PACKED_FOR = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class _Linear:
    """x W^T + b; weights of half precision compute in theirs. `packed` is the weight in MKL's own layout, if any.

    Otherwise MKL lays a weight out anew for each product, which for a few short texts takes as long as to multiply.
    """

    weight: Tensor
    bias: Tensor
    packed: Tensor | None = None

    def __call__(self, rows_TF: Tensor) -> Tensor:
        if self.packed is not None:
            return _mkl_linear(rows_TF, self.packed, self.weight, self.bias, len(rows_TF))
        return F.linear(rows_TF.to(self.weight.dtype), self.weight, self.bias).to(rows_TF.dtype)


def _mkl_linear(rows_TF: Tensor, packed: Tensor, weight: Tensor, bias: Tensor, n_rows: int) -> Tensor:
    found: Tensor = torch.ops.mkl._mkl_linear.default(rows_TF, packed, weight, bias, n_rows)  # noqa: SLF001 - its name
    return found


def _laid_out(weight: Tensor) -> Tensor | None:
    """None where the weight is not MKL's to multiply."""
    is_mkls = weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkl.is_available()
    if not is_mkls or not hasattr(torch.ops.mkl, "_mkl_reorder_linear_weight"):
        return None
    found: Tensor = torch.ops.mkl._mkl_reorder_linear_weight(weight, _PACKED_FOR)  # noqa: SLF001 - its name
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layer:
    """One transformer layer; `after_attention` and `after_feed_forward` name its normalisations."""

    attend: _Linear
    join: _Linear
    widen: _Linear
    narrow: _Linear
    after_attention: str
    after_feed_forward: str


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Texts of one length, side by side: rows `start` to `stop` of the tokens, `n_texts` texts from `first` on."""

    start: int
    stop: int
    first: int
    n_texts: int


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedBert:
    """The states of a `transformers` BertModel, averaged over each text's tokens.

    It shares that model's weights, but for queries, keys and values, which it holds side by side, and holds all of them
    a second time as MKL multiplies them.
    """

    words_VF: Tensor
    places_LF: Tensor
    layers: tuple[_Layer, ...]
    n_heads: int
    epsilon: float
    layout: GraftLayout

    @classmethod
    def of(cls, module: nn.Module, *, dtype: torch.dtype = torch.float32) -> "PackedBert | None":
        """The same function as `module` computes; None where that is no BERT of the plain kind.

        `dtype` is that of the matrix products; all else is float32.
        """
        if not _is_plain_bert(module):
            return None
        bert: Any = module
        embeddings = bert.embeddings
        layers = bert.encoder.layer
        return cls(
            words_VF=embeddings.word_embeddings.weight,
            places_LF=embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0],
            # MKL lays weights out for as many threads as the one that asks has.
            layers=on_all_cores(lambda: tuple(_layer(layer, place, dtype) for place, layer in enumerate(layers))),
            n_heads=bert.config.num_attention_heads,
            epsilon=bert.config.layer_norm_eps,
            layout=GraftLayout(points=graft_points(module)),
        )

    def __call__(self, texts: Sequence[Sequence[int]], grafted: GraftedRows | None = None) -> Tensor:
        """(B, F) mean of the states of each text's tokens, not yet of unit length, in the order of `texts`."""
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        lengths = [len(texts[row]) for row in order]
        device = self.words_VF.device
        length_B = torch.tensor(lengths, device=device)
        text_T = torch.arange(len(order), device=device).repeat_interleave(length_B)
        place_T = torch.cat([torch.arange(length, device=device) for length in lengths])
        token_T = torch.tensor([token for row in order for token in texts[row]], device=device)
        index_B = torch.tensor(order, device=device)
        runs = list(_runs(lengths))
        normalise = self._normalisation(grafted, index_B, runs)
        states_TF = normalise("embeddings.LayerNorm", self.words_VF[token_T] + self.places_LF[place_T])
        for layer in self.layers:
            mixed_TF = layer.join(self._attention(layer.attend(states_TF), runs)).add_(states_TF)
            states_TF = normalise(layer.after_attention, mixed_TF)
            mixed_TF = layer.narrow(F.gelu(layer.widen(states_TF))).add_(states_TF)
            states_TF = normalise(layer.after_feed_forward, mixed_TF)
        sums_BF = torch.zeros(len(order), states_TF.shape[1], device=device).index_add_(0, text_T, states_TF)
        means_BF = torch.empty_like(sums_BF)
        means_BF[index_B] = sums_BF / length_B[:, None].clamp(min=1)
        return means_BF

    def _attention(self, projected_T3F: Tensor, runs: Sequence[_Run]) -> Tensor:
        """(T, F) from queries, keys and values side by side. Texts of one length need no mask."""
        parts = []
        for run in runs:
            rows = projected_T3F[run.start : run.stop]
            query, key, value = rows.view(run.n_texts, -1, 3, self.n_heads, rows.shape[1] // 3 // self.n_heads).permute(
                2, 0, 3, 1, 4
            )
            attended_BHLF = F.scaled_dot_product_attention(query, key, value)
            parts.append(attended_BHLF.transpose(1, 2).reshape(len(rows), -1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _normalisation(
        self, grafted: GraftedRows | None, order_B: Tensor, runs: Sequence[_Run]
    ) -> Callable[[str, Tensor], Tensor]:
        """The function that normalises states as the layer of a name does, for each token under its text's graft."""
        if grafted is None:
            return partial(_normalised, values=self.layout.points, epsilon=self.epsilon)
        if grafted.is_uniform:
            same = {name: value_GF[0] for name, value_GF in self.layout.split(grafted.values_GP).items()}
            return partial(_normalised, values=same, epsilon=self.epsilon)
        values = self.layout.split(grafted.values_GP[grafted.graft_B[order_B]])
        return partial(_normalised_by_text, values=values, runs=runs, epsilon=self.epsilon)


def _normalised(layer: str, states_TF: Tensor, *, values: Mapping[str, Tensor], epsilon: float) -> Tensor:
    shape = (states_TF.shape[1],)
    return F.layer_norm(states_TF, shape, values[f"{layer}.weight"], values[f"{layer}.bias"], epsilon)


def _normalised_by_text(
    layer: str, states_TF: Tensor, *, values: Mapping[str, Tensor], runs: Sequence[_Run], epsilon: float
) -> Tensor:
    """`values` are (B, F). Run by run a text's scale and shift are not copied for each of its tokens."""
    width = states_TF.shape[1]
    normal_TF = F.layer_norm(states_TF, (width,), None, None, epsilon)
    scale_B1F, shift_B1F = (values[f"{layer}.{part}"][:, None] for part in ("weight", "bias"))
    for run in runs:
        tokens_NLF = normal_TF[run.start : run.stop].view(run.n_texts, -1, width)
        texts = slice(run.first, run.first + run.n_texts)
        torch.addcmul(shift_B1F[texts], tokens_NLF, scale_B1F[texts], out=tokens_NLF)
    return normal_TF


def _runs(lengths: Sequence[int]) -> Iterator[_Run]:
    start = first = 0
    for length, same in groupby(lengths):
        n_texts = len(list(same))
        if length:
            yield _Run(start=start, stop=start + n_texts * length, first=first, n_texts=n_texts)
        start, first = start + n_texts * length, first + n_texts


def _is_plain_bert(module: nn.Module) -> bool:
    config: Any = getattr(module, "config", None)
    return (
        type(module).__name__ == "BertModel"
        and config.hidden_act == "gelu"
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and not config.is_decoder
    )


def _layer(layer: Any, place: int, dtype: torch.dtype) -> _Layer:
    attention = layer.attention.self
    parts = (attention.query, attention.key, attention.value)

    def linear(weight: Tensor, bias: Tensor) -> _Linear:
        weight = weight.detach().to(dtype)
        return _Linear(weight=weight, bias=bias.detach().to(dtype), packed=_laid_out(weight))

    joined, wide, narrow = layer.attention.output.dense, layer.intermediate.dense, layer.output.dense
    return _Layer(
        attend=linear(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])),
        join=linear(joined.weight, joined.bias),
        widen=linear(wide.weight, wide.bias),
        narrow=linear(narrow.weight, narrow.bias),
        after_attention=f"encoder.layer.{place}.attention.output.LayerNorm",
        after_feed_forward=f"encoder.layer.{place}.output.LayerNorm",
    )
