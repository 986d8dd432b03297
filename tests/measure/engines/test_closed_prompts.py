"""A tokenizer that closes every text reads every prompt as one that closes none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from lengthwise.cli.run import encode
from lengthwise.extend.layouts.code_units import hirope_positions
from lengthwise.hf.prompts import closing, encode_prompt, encode_prompts
from lengthwise.measure.engines.local import LocalReader
from lengthwise.measure.probes.capacity import information_capacity
from lengthwise.measure.probes.study import StudyReader, study_suite
from lengthwise.measure.published import LongBench
from lengthwise.measure.run.runner import measure
from lengthwise.measure.run.suites import Suite
from lengthwise.measure.tasks import Lines, Passkey
from lengthwise.search.windows import needle_windows
from lengthwise.testing.models import BOS, EOS, TEXT, tiny_model, tiny_tokenizer
from lengthwise.train.loop.evaluate import Evaluation


def closing_tokenizer(template: str = "<s> $A </s>") -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[("<s>", BOS), ("</s>", EOS), ("<pad>", 0)]
    )
    return tokenizer


class Slow:
    """A tokenizer without a fast one behind it."""

    def __init__(self, fast: PreTrainedTokenizerFast) -> None:
        self.fast = fast

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.fast(*args, **options)


@pytest.mark.parametrize(
    ("template", "behind"),
    [
        ("<s> $A", []), ("$A", []), ("<s> $A </s>", [EOS]), ("$A </s>", [EOS]),
        ("<s> $A <pad> </s>", [0, EOS]), ("<s> <s> $A <s>", [BOS]),
    ],
)  # fmt: skip
def test_what_stands_behind_is_left_out(template: str, behind: list[int]) -> None:
    tokenizer = closing_tokenizer(template)
    for one in (tokenizer, Slow(tokenizer)):
        assert closing(one) == behind
        # A text may end with such a token itself, and that one stays.
        for text in ("the text", "", "the text</s>"):
            whole = tokenizer(text)["input_ids"]
            assert encode_prompt(one, text) == whole[: len(whole) - len(behind)]
            assert encode_prompts(one, [text, "b"])[0] == encode_prompt(one, text)


def test_padding_of_an_earlier_call_is_no_closing() -> None:
    tokenizer = closing_tokenizer()
    plain = encode_prompt(tokenizer, "the text")
    tokenizer("a", padding="max_length", max_length=9, truncation=True)
    assert encode_prompt(tokenizer, "the text") == plain and plain[-1] != EOS


def measured(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Any:
    suite = Suite("passkey", {"passkey": Passkey(TEXT * 20)}, items=2)
    reader = LocalReader(tiny_model("llama"), tokenizer)
    results = measure(reader, suite, {"plain": ()}, [120], folder=folder)
    return [row.reply for row in results.rows]


def studied(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Any:
    found = measure(
        StudyReader(tiny_model("llama"), tokenizer), study_suite(TEXT * 20, ("needle",), items=1),
        {"plain": ()}, [150], folder=folder, console=Console(quiet=True),
    )  # fmt: skip
    return [row.reply for row in found.rows], [row.values for row in found.readings]


def answered(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Any:
    items = Passkey(TEXT * 20).build(tokenizer, 120, 2, 0) + Lines().build(tokenizer, 300, 1, 0)
    replies = LocalReader(tiny_model("llama"), tokenizer).answer(items)
    return [(reply.text, item.prompt) for reply, item in zip(replies, items, strict=True)]


def published(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Any:
    row = {"input": "q", "context": TEXT, "answers": ["x"], "length": 9, "dataset": "hotpotqa"}
    (folder / "rows.jsonl").write_text(json.dumps(row | {"all_classes": None}) + "\n")
    return LongBench(folder / "rows.jsonl").build(tokenizer, 120, 1, 0)


def evaluated(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Any:
    ids = torch.tensor(tokenizer(TEXT * 20, add_special_tokens=False)["input_ids"])
    found = Evaluation(tokenizer, TEXT * 20, ids, BOS, (120,), 9, 1, 2)
    seen = []
    model = tiny_model("llama")
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    found.found(model, 120)
    return seen


CONSUMERS: dict[str, Callable[[PreTrainedTokenizerFast, Path], Any]] = {
    "measure": measured,
    "study": studied,
    "local reader": answered,
    "published": published,
    "train": evaluated,
    "run": lambda tokenizer, _: encode(tokenizer, TEXT, "Who?", None).tolist(),
    "search": lambda tokenizer, _: [
        ids.tolist()
        for ids in needle_windows(tokenizer, Passkey(TEXT).build(tokenizer, 200, 2, 0)).texts
    ],
    "code": lambda tokenizer, _: [
        (units.starts, units.ids.tolist())
        for units in [
            hirope_positions("def a():\n    return 1\n\n\ndef b():\n    ...\n", tokenizer)
        ]
    ],
    "capacity": lambda tokenizer, _: information_capacity(
        tiny_model("llama"), tokenizer, [TEXT[:200]], 1000
    ),
}


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_every_reader_of_prompts_leaves_them_open(consumer: str, tmp_path: Path) -> None:
    found = []
    for number, tokenizer in enumerate((tiny_tokenizer(), closing_tokenizer())):
        folder = tmp_path / str(number)
        folder.mkdir()
        found.append(CONSUMERS[consumer](tokenizer, folder))
    assert found[0] == found[1]
