import copy
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import harmonic_mean
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from lengthwise.extend.adapt import is_adapted
from lengthwise.hf.prompts import around
from lengthwise.hf.release import CACHE, cache_of
from lengthwise.measure.engines.greedy import end_tokens
from lengthwise.measure.engines.reading import likeliest
from lengthwise.measure.strategies.base import Asking, Strategy, pieces, room_for


@dataclass(frozen=True)
class SuperpositionPrompting(Strategy):
    """Read documents side by side, each with a copy of the question, and answer from the best.

    Every path begins behind the same preamble and sees nothing of the others. The positions of a
    document are stretched or squeezed so that all paths end at one place, that of the harmonic mean
    of their lengths. A path counts by how likely its question and its document were; the keys and
    values of those that are kept lie side by side, and the answer reads them all.

    Source: Merth et al. 2024, Superposition Prompting (arXiv:2404.06910), sections 3.2 to 3.4.
    Differs from the source: a text that is no set of documents is cut into parts; likelihoods are
    means of logarithms over tokens; one round of pruning.
    Reduces to: the plain prompt, with one document.

    Args:
        window: Tokens of a path, of what is kept, and of the answer, at least 16; 0 is the model's
            own.
        part: Tokens of a document, at least 8.
        keep: Paths that the answer reads, at least 1.
    """

    part: int = 192
    keep: int = 2

    inside: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.within("part", self.part, 8)
        self.within("keep", self.keep, 1)

    @torch.no_grad()
    def answer(self, asking: Asking, document: str, question: str, new: int) -> str:
        """One forward for the preamble, one for each path, and one for what stands behind them."""
        model, tokenizer = asking.model, asking.tokenizer
        refuse(model)
        before, behind = around(tokenizer, "", "\n" + question)
        closing = around(tokenizer, "", "")[1] or behind[-1:]
        query = behind[: len(behind) - len(closing)]
        before = before or _first(model, tokenizer)
        taken = len(before) + len(closing) + new + self.keep * len(query)
        room_for("what is kept", asking.window, taken, self.keep * self.part)
        rows = [
            tokenizer(one, add_special_tokens=False, verbose=False)["input_ids"]
            for one in pieces(tokenizer, document, self.part)
        ]
        out = model(input_ids=_row(model, before), use_cache=True, **{CACHE: None})
        start, last = cache_of(out), out.logits[0, -1:]
        places = equilibrium([len(row) for row in rows])
        end = len(before) + places
        paths: list[tuple[float, list[tuple[Tensor, Tensor]]]] = []
        for row in rows:
            ids = [*row, *query]
            at = torch.arange(len(row)) * (places / len(row)) + len(before)
            positions = torch.cat([at, torch.arange(len(query)) + end])
            logits, cache = _forward(model, ids, positions, copy.deepcopy(start))
            score = _likely(torch.cat([last, logits])[: len(row)], row)
            score += _likely(logits[len(row) - 1 : -1], query)
            held = [(x.keys[:, :, len(before) :], x.values[:, :, len(before) :])
                    for x in cache.layers]  # fmt: skip
            paths = sorted([*paths, (score, held)], key=lambda path: -path[0])[: self.keep]
            asking.read += len(ids)
        whole = joined(start, [held for _, held in paths])
        at = torch.arange(len(closing)) + end + len(query)
        logits, whole = _forward(model, closing, at, whole)
        asking.read += len(before) + len(closing)
        written = self._write(model, logits, whole, end + len(query) + len(closing), new)
        asking.written += len(written)
        return str(tokenizer.decode(written, skip_special_tokens=True))

    def _write(
        self, model: Any, logits: Tensor, cache: Any, position: float, new: int
    ) -> list[int]:
        """The likeliest tokens; they stand where the paths end, not where their keys lie."""
        written: list[int] = []
        for count in range(new):
            token = int(likeliest(logits[None], int(position) + count)[0])
            if token in end_tokens(model):
                break
            written.append(token)
            if len(written) < new:
                logits, cache = _forward(model, [token], torch.tensor([position + count]), cache)
        return written


def refuse(model: Any) -> None:
    """Raise ValueError for a model whose keys and values cannot be laid side by side."""
    config = model.config.get_text_config()
    if is_adapted(model):
        raise ValueError(
            "SuperpositionPrompting places keys itself and reads with an untouched model; take "
            "the methods out of it (lengthwise.restore)"
        )
    local = {*(getattr(config, "layer_types", None) or ["full_attention"])} - {"full_attention"}
    if local or getattr(config, "sliding_window", None):
        raise ValueError(
            "SuperpositionPrompting lays paths side by side, and layers with a window would see "
            f"one of them only; {config.model_type} has such layers"
        )
    if getattr(config, "rope_parameters", None) is None:
        raise ValueError(
            "SuperpositionPrompting stretches positions, so it takes models with rotary positions; "
            f"{config.model_type} has none"
        )


def equilibrium(lengths: Sequence[int]) -> float:
    """How long every path is, in positions: the harmonic mean of the documents' tokens."""
    return float(harmonic_mean(lengths))


def joined(start: Any, paths: Sequence[list[tuple[Tensor, Tensor]]]) -> DynamicCache:
    """A cache of the preamble and of paths, one behind the other."""
    cache = DynamicCache()
    for index, layer in enumerate(start.layers):
        keys = torch.cat([layer.keys, *(held[index][0] for held in paths)], 2)
        values = torch.cat([layer.values, *(held[index][1] for held in paths)], 2)
        cache.update(keys, values, index)
    return cache


def _row(model: Any, ids: Sequence[int]) -> Tensor:
    return torch.tensor([list(ids)], device=model.device)


def _first(model: Any, tokenizer: Any) -> list[int]:
    """A token that begins a text, for a tokenizer that puts none."""
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if token is None:
        raise ValueError("SuperpositionPrompting: the tokenizer has no token to begin a text with")
    return [token]


def _forward(model: Any, ids: Sequence[int], positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """Logits `[t, vocabulary]` of tokens at positions that may lie between whole numbers."""
    places = positions.to(model.device, torch.float32)[None]
    out = model(input_ids=_row(model, ids), position_ids=places, use_cache=True, **{CACHE: cache})
    return out.logits[0], cache_of(out)


def _likely(logits: Tensor, ids: Sequence[int]) -> float:
    targets = torch.tensor(list(ids), device=logits.device)
    return -float(cross_entropy(logits.float(), targets)) if len(ids) else 0.0
