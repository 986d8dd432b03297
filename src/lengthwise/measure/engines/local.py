"""A model in this process answers, greedily."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lengthwise.extend.adapt import adapt, binding_of, is_adapted, restore
from lengthwise.extend.method import Method
from lengthwise.extend.whole import steady
from lengthwise.hf.prompts import Chat
from lengthwise.hf.weights import fingerprint
from lengthwise.measure.cost.peak import PeakBytes
from lengthwise.measure.cost.speed import cache_bytes, peak_bytes
from lengthwise.measure.engines.base import Reply
from lengthwise.measure.engines.greedy import answering, batches, without_end
from lengthwise.measure.engines.reading import (
    CHUNK,
    read_to_end,
    trained_window,
)
from lengthwise.measure.tasks.base import Item


class LocalReader:
    """Answers in process, with the model as it is adapted at the moment.

    Short items of one length are read as one batch: times are what each of them waited, bytes are
    its share. On a CPU the peak is counted in one more reading of one item, once for every length
    and method, for counting disturbs the clock; other replies leave it out.

    Args:
        model: In evaluation mode.
        name: What to call it in reports.
        chunk: Tokens per forward pass.
        window: The trained window in tokens; None takes it from the configuration.
        chat: Whether a prompt is what a person says, in the tokenizer's chat template, which counts
            towards its length; None does so where there is a template.

    Raises:
        ValueError: A chunk below 1, a configuration that names no window, or no chat template
            where one is asked for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        chunk: int = CHUNK,
        name: str = "",
        window: int | None = None,
        chat: bool | None = None,
    ) -> None:
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1 token, got {chunk!r}")
        self.model, self.chunk = model, chunk
        chats = bool(getattr(tokenizer, "chat_template", None)) if chat is None else chat
        self.tokenizer = cast(PreTrainedTokenizerBase, Chat(tokenizer)) if chats else tokenizer
        self.name = name or type(model).__name__
        self.window = window or trained_window(model)
        self._counted: set[tuple[str, int]] = set()

    def describe(self) -> Mapping[str, Any]:
        """Name, fingerprint, parameters, dtype, window, chunk, and the template if it chats."""
        template = {"chat": self.tokenizer.template} if isinstance(self.tokenizer, Chat) else {}
        return template | {
            "name": self.name,
            "fingerprint": fingerprint(self.model),
            "parameters": sum(weight.numel() for weight in self.model.parameters()),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "window": self.window,
            "chunk": self.chunk,
        }

    def adapt(self, *methods: Method) -> None:
        """Fit methods into the model; see `lengthwise.adapt`."""
        adapt(self.model, *methods)

    def restore(self) -> None:
        """Take the methods out again."""
        restore(self.model)

    def answer(self, items: Sequence[Item]) -> Iterator[Reply]:
        """One reply an item, in their order. What memory or a method cannot do is refused."""
        for ids, new in batches(self.tokenizer, items):
            yield from self._batch(ids, new)

    def _batch(self, ids: Tensor, new: int) -> list[Reply]:
        began = time.perf_counter()
        try:
            with steady(self.model):
                return self._read(ids, new)
        except ValueError as error:
            refused = str(error)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            refused = f"out of memory on {self.model.device}"
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(ids) > 1:
            return [reply for row in ids.split(1) for reply in self._batch(row, new)]
        return [Reply("", 0, None, time.perf_counter() - began, refused=refused)]

    def _read(self, ids: Tensor, new: int) -> list[Reply]:
        """Greedy answers of up to `new` tokens to the rows of `ids` `[b, t]`."""
        peaks: list[int | None] = [None] * len(ids)
        if self.model.device.type == "cuda":
            with PeakBytes(self.model.device) as counting:
                answers, first, seconds, held = self._decode(ids, new)
            if counting.bytes is not None:
                peaks = [counting.bytes // len(ids)] * len(ids)
        else:
            answers, first, seconds, held = self._decode(ids, new)
            shape = (self._methods(), ids.shape[1] + new)
            if shape not in self._counted:
                peaks[0] = peak_bytes(self.model, ids[:1], self.chunk)
                self._counted.add(shape)
        texts = self.tokenizer.batch_decode(
            [without_end(self.model, answer) for answer in answers], skip_special_tokens=True
        )
        return [
            Reply(text, len(answer), first, round(took, 6), held // len(ids), peak)
            for text, answer, took, peak in zip(texts, answers, seconds, peaks, strict=True)
        ]

    @torch.no_grad()
    def _decode(self, ids: Tensor, new: int) -> tuple[list[list[int]], float, list[float], int]:
        """Answers with their end tokens; seconds to the first token and to each end; bytes held."""
        began = time.perf_counter()
        logits, cache = read_to_end(self.model, ids, self.chunk)
        answers: list[list[int]] = [[] for _ in ids]
        seconds, first = [0.0] * len(ids), 0.0
        for written, held in answering(self.model, logits, cache, ids.shape[1], new):
            now = time.perf_counter() - began
            first = first or round(now, 6)
            for row, token in written.items():
                answers[row].append(token)
                seconds[row] = now
        return answers, first, seconds, cache_bytes(held)

    def _methods(self) -> str:
        return repr(binding_of(self.model).engine.axes) if is_adapted(self.model) else ""


def out_of_memory(error: BaseException) -> bool:
    """Whether torch says that memory is short; on a CPU it says so in words only."""
    short = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, short) or "DefaultCPUAllocator: " in str(error)
