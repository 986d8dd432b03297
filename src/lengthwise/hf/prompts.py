"""Texts that are to be gone on with, as tokens.

Some tokenizers close every text, with `</s>` say. A closed text is no prompt: the model has been
told that it is over. So every prompt of the project is encoded here.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psutil
from transformers import PreTrainedTokenizerBase

from lengthwise.hf.loading import in_words

WRAPPING = 1 << 20  # characters that a chat template may put around what was said
ROOM = 1 << 30  # bytes that it may work with
_MARK = "<|lengthwise-here|>"


class Chat:
    """A tokenizer whose prompts are what a person says, in the model's chat template.

    Everything else is that of the tokenizer: a text without special tokens, decoding, and so on.

    Raises:
        ValueError: A tokenizer without a template, or one that cannot be used.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise ValueError(f"the tokenizer {tokenizer.name_or_path} has no chat template")
        self.inner = tokenizer
        encode_chat(tokenizer, "a")  # what cannot be used is said before anything is measured

    @property
    def template(self) -> str:
        """What tells the template from others: the start of its SHA-256."""
        text = json.dumps(self.inner.chat_template, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __call__(self, *texts: Any, **options: Any) -> Any:
        return self.inner(*texts, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":  # while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self.inner, name)


def encode_prompts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of each text, with what the tokenizer puts before it and without what it puts behind;
    with a `Chat`, tokens of its template around the text.

    A closing token that the text itself ends with stays.
    """
    if isinstance(tokenizer, Chat):
        return [encode_chat(tokenizer.inner, text) for text in texts]
    # verbose=False: going beyond the trained window is the point.
    rows: Any = tokenizer(list(texts), verbose=False)["input_ids"]
    return _opened(tokenizer, rows)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The same for one text."""
    if isinstance(tokenizer, Chat):
        return encode_chat(tokenizer.inner, text)
    row: Any = tokenizer(text, verbose=False)["input_ids"]
    return _opened(tokenizer, [row])[0]


def encode_chat(tokenizer: PreTrainedTokenizerBase, content: str) -> list[int]:
    """What a person says, in the words of the tokenizer's chat template, as tokens.

    Raises:
        ValueError: If the template, which is a program of the checkpoint's, fails, says nothing, or
            makes gigabytes of a text.
    """
    encoded: Any = tokenizer(
        _in_template(tokenizer, content), add_special_tokens=False, verbose=False
    )
    if not encoded["input_ids"]:
        raise _unusable(tokenizer, "it makes no token of a text")
    return list(encoded["input_ids"])


def around(
    tokenizer: PreTrainedTokenizerBase, before: str, behind: str
) -> tuple[list[int], list[int]]:
    """The tokens that stand before and behind a text in a prompt, whatever the text is.

    Args:
        before, behind: What the prompt itself has there; a chat template adds its own.

    Raises:
        ValueError: A chat template that does not write what was said as it is.
    """
    if isinstance(tokenizer, Chat):
        said = _in_template(tokenizer.inner, before + _MARK + behind)
        if said.count(_MARK) != 1:
            raise _unusable(tokenizer.inner, "it changes what is said")
        ids: Any = tokenizer.inner(said.split(_MARK), add_special_tokens=False, verbose=False)
        return list(ids["input_ids"][0]), list(ids["input_ids"][1])
    rows: Any = tokenizer([behind], add_special_tokens=False, verbose=False)["input_ids"]
    return encode_prompt(tokenizer, before), list(rows[0])


def _in_template(tokenizer: PreTrainedTokenizerBase, content: str) -> str:
    """What a person says as the template writes it.

    Raises:
        ValueError: As `encode_chat`.
    """
    said = [{"role": "user", "content": content}]
    try:
        with _at_most(ROOM + 16 * len(content)):
            text: Any = tokenizer.apply_chat_template(
                said, add_generation_prompt=True, tokenize=False
            )
    except MemoryError as error:
        raise _unusable(tokenizer, f"it works with more than {ROOM >> 30} GiB") from error
    except Exception as error:  # it can run into anything: a program divides by zero as it likes
        raise _unusable(tokenizer, in_words(error)) from error
    if len(text) > 2 * len(content) + WRAPPING:
        raise _unusable(
            tokenizer, f"it makes {len(text):,} characters of a text of {len(content):,}"
        )
    return str(text)


@contextmanager
def _at_most(room: int) -> Iterator[None]:
    """Let this process take so many bytes more, where the system can say so; then MemoryError."""
    try:
        import resource
    except ImportError:  # on Windows
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = psutil.Process().memory_info().vms + room
    with suppress(ValueError, OSError):  # above a limit that there is already
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _unusable(tokenizer: PreTrainedTokenizerBase, words: str) -> ValueError:
    return ValueError(
        f"the chat template of {tokenizer.name_or_path} cannot be used: {words}; pass --no-chat"
    )


def _opened(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> list[list[int]]:
    behind = closing(tokenizer)
    if not behind:
        return rows
    return [row[: -len(behind)] if row[-len(behind) :] == behind else row for row in rows]


def closing(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that the tokenizer puts behind every text; mostly none."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None:  # asked at every prompt, so without a detour of 0.1 ms
        whole, bare = fast.encode("a").ids, fast.encode("a", add_special_tokens=False).ids
    else:
        ids: Any = tokenizer("a", verbose=False)["input_ids"]
        plain: Any = tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]
        whole, bare = list(ids), list(plain)
    for start in range(len(whole) - len(bare), -1, -1):
        if whole[start : start + len(bare)] == bare:
            return list(whole[start + len(bare) :])
    return []
