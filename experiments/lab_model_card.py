"""What a model of 512 tokens can show, as the tables of its card.

    python experiments/lab_model_card.py runs/end/model --corpus corpus
    python experiments/lab_model_card.py demo --corpus corpus --only sinks

text     loss on held-out files of every kind, inside the window
tasks    score of every task of the suites inside the window, beside chance
sinks    loss past the window, through a bare window of keys and through as many with sinks
methods  loss and passkeys past the window, without a method and with some
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean

import torch
from lab_corpus import read_kinds
from torch import Tensor

import lengthwise as lw
from lengthwise.cli.demo import METHODS
from lengthwise.cli.inputs import read_methods
from lengthwise.measure import Interval, Passkey, bootstrap_mean, losses_by_position
from lengthwise.measure.engines.greedy import answers
from lengthwise.measure.run.suites import suite
from lengthwise.measure.tasks.base import Reading
from lengthwise.measure.tasks.text import held_out_text

WINDOW = 512
LENGTH = 16 * WINDOW  # of the texts that methods read
RULE = "| --- | ---: | ---: | ---: |"


def between(values: list[float], digits: int) -> str:
    """A mean with its interval of 95%."""
    found = bootstrap_mean(torch.tensor(values), torch.Generator().manual_seed(0))
    return words(found, digits)


def words(found: Interval, digits: int) -> str:
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def stretches(tokenizer, texts: list[str], count: int, length: int) -> list[Tensor]:
    """Stretches `[1, length]` of texts, spread over all of them, each headed by `<s>`."""
    ids = [i for one in texts for i in tokenizer(one, add_special_tokens=False)["input_ids"]]
    most = len(ids) - length + 1
    if most < count:
        raise ValueError(f"the texts have {len(ids)} tokens, too few for {count} of {length}")
    starts = [most * i // count for i in range(count)]
    head = [tokenizer.bos_token_id]
    return [torch.tensor([head + ids[start : start + length - 1]]) for start in starts]


def text(model, tokenizer, kinds: dict[str, list[str]], count: int) -> Iterator[str]:
    """Loss of every kind."""
    yield "| text | nats per token, 512 tokens | bits per character |\n| --- | ---: | ---: |"
    for name, texts in kinds.items():
        rows = stretches(tokenizer, texts, count, WINDOW)
        losses = [losses_by_position(model, row).mean().item() for row in rows]
        letters = sum(len(tokenizer.decode(row[0, 1:])) for row in rows)
        bits = sum(losses) * (WINDOW - 1) / letters / 0.6931471805599453
        yield f"| {name} | {between(losses, 2)} | {bits:.2f} |"


def tasks(model, tokenizer, kinds: dict[str, list[str]], count: int) -> Iterator[str]:
    """Scores of every task inside the window."""
    yield f"| task, {count} items of {WINDOW} tokens | score | chance |\n| --- | ---: | ---: |"
    every = {
        f"{name}, {key}": task
        for name in ("quick", "full")
        for key, task in suite(name, held_out_text()).tasks.items()
    }
    for name, task in every.items():
        assert not isinstance(task, Reading)
        try:
            items = task.build(tokenizer, WINDOW, count, seed=0)
        except ValueError:
            yield f"| {name} | does not fit | |"
            continue
        texts = answers(model, tokenizer, items)
        scores = [task.score(reply, item) for reply, item in zip(texts, items, strict=True)]
        chance = fmean(task.chance(item) for item in items)
        yield f"| {name} | {between(scores, 2)} | {chance:.2f} |"


def sinks(model, tokenizer, kinds: dict[str, list[str]], count: int) -> Iterator[str]:
    """A bare window against one of as many keys of which four are the text's first."""
    yield "| text, window 256 | bare | with 4 sinks | what sinks are worth |\n" + RULE
    for name, texts in kinds.items():
        rows = torch.cat(stretches(tokenizer, texts, count, 2 * WINDOW))
        found = []
        for method in (lw.SlidingWindow(256), lw.StreamingLLM(sinks=4, window=252)):
            with lw.adapted(model, method):
                losses = torch.cat([losses_by_position(model, row[None]) for row in rows])
            found.append(losses[:, WINDOW:].mean(1))
        bare, kept = found
        yield (
            f"| {name} | {bare.mean():.2f} | {kept.mean():.2f} | "
            f"{between((bare - kept).tolist(), 3)} |"
        )


def methods(model, tokenizer, kinds: dict[str, list[str]], count: int) -> Iterator[str]:
    """Beyond the window, plain and with the methods of the demo."""
    spans = [(0, WINDOW)] + [(WINDOW << i, WINDOW << (i + 1)) for i in range(4)]
    heads = " | ".join(f"{a:,} – {b:,}" for a, b in spans)
    yield f"| loss on Python | {heads} |\n| --- |" + " ---: |" * len(spans)
    row = stretches(tokenizer, [held_out_text()], 1, LENGTH + 1)[0]
    for name, spec in METHODS.items():
        with lw.adapted(model, *read_methods([spec])):
            losses = losses_by_position(model, row)[0]
        yield f"| {name} | " + " | ".join(f"{losses[a:b].mean():.2f}" for a, b in spans) + " |"
    yield f"\n| passkeys of {count} | 512 | 1,024 | 2,048 | 4,096 |\n{RULE} ---: |"
    for name in ("plain", "SelfExtend", "InfLLM"):
        found = []
        for length in (WINDOW, 2 * WINDOW, 4 * WINDOW, 8 * WINDOW):
            task = Passkey(held_out_text())
            items = task.build(tokenizer, length, count, seed=0)
            with lw.adapted(model, *read_methods([METHODS[name]])):
                texts = answers(model, tokenizer, items)
            pairs = zip(texts, items, strict=True)
            found.append(f"{sum(task.score(reply, item) for reply, item in pairs):.0f}")
        yield f"| {name} | {' | '.join(found)} |"


TABLES: dict[str, Callable[..., Iterator[str]]] = {
    "text": text, "tasks": tasks, "sinks": sinks, "methods": methods,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a checkpoint's folder, or demo")
    parser.add_argument("--corpus", type=Path, required=True, help="made by lab_corpus.py")
    parser.add_argument("--only", choices=TABLES, action="append")
    parser.add_argument("--items", type=int, default=40)
    given = parser.parse_args()
    model, tokenizer = lw.load(given.model, dtype=torch.float32)
    kinds = read_kinds(given.corpus, held_out=True)
    for name in given.only or TABLES:
        for line in TABLES[name](model, tokenizer, kinds, given.items):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
