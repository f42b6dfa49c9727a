"""llama.cpp, by the wheel xllamacpp: what it makes of a text with a GGUF file."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class LlamaCpp:
    """A model that is served in this process, in float32."""

    def __init__(self, server: Any):
        self._address = server.listening_address

    def ask(self, path: str, **request: Any) -> Any:
        data = json.dumps(request).encode()
        call = urllib.request.Request(f"{self._address}/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(call, timeout=60) as answer:
            return json.load(answer)

    def tokens(self, text: str) -> list[int]:
        return list(self.ask("tokenize", content=text, add_special=True, parse_special=True)["tokens"])

    def generate(self, tokens: list[int], count: int) -> tuple[list[int], int, dict[int, float]]:
        """The most likely continuation; one of its tokens, and the log probabilities of the likeliest in its place.

        It is the first that is no part of a character: of others the server tells nothing.
        """
        got = self.ask(
            "completion", prompt=tokens, n_predict=count, temperature=0.0, n_probs=8, return_tokens=True,
            cache_prompt=False, ignore_eos=True,
        )  # fmt: skip
        told = got["completion_probabilities"][0]
        return got["tokens"], told["id"], {each["id"]: each["logprob"] for each in told["top_logprobs"]}


@contextmanager
def llama_cpp(model: Path, adapter: Path | None = None) -> Iterator[LlamaCpp]:
    xlc: Any = pytest.importorskip("xllamacpp")
    params = xlc.CommonParams()
    params.model.path = str(model)
    params.n_ctx, params.warmup, params.fit_params = 256, False, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xlc.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xlc.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if adapter:
        lora = xlc.CommonAdapterLoraInfo()
        lora.path, lora.scale = str(adapter), 1.0
        params.lora_adapters = [lora]
    server = xlc.Server(params)
    try:
        yield LlamaCpp(server)
    finally:
        del server
