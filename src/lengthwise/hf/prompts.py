"""Texts that are to be gone on with, as tokens.

Some tokenizers close every text, with `</s>` say. A closed text is no prompt: the model has been
told that it is over. So every prompt of the project is encoded here.
"""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from lengthwise.hf.loading import in_words


def encode_prompts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of each text, with what the tokenizer puts before it and without what it puts behind.

    A closing token that the text itself ends with stays.
    """
    # verbose=False: going beyond the trained window is the point.
    rows: Any = tokenizer(list(texts), verbose=False)["input_ids"]
    return _opened(tokenizer, rows)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The same for one text."""
    row: Any = tokenizer(text, verbose=False)["input_ids"]
    return _opened(tokenizer, [row])[0]


def encode_chat(tokenizer: PreTrainedTokenizerBase, content: str) -> list[int]:
    """What a person says, in the words of the tokenizer's chat template, as tokens.

    Raises:
        ValueError: If the template, which is a program of the checkpoint's, fails or says nothing.
    """
    said = [{"role": "user", "content": content}]
    try:
        encoded: Any = tokenizer.apply_chat_template(
            said, add_generation_prompt=True, return_dict=True
        )
    except Exception as error:  # it can run into anything: a program divides by zero as it likes
        raise _unusable(tokenizer, in_words(error)) from error
    if not encoded["input_ids"]:
        raise _unusable(tokenizer, "it makes no token of a text")
    return list(encoded["input_ids"])


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
