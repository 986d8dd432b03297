"""How many tokens a second does a training step take in on documents of every length?

python benchmarks/packed_training.py   padded and packed batches of the same documents, both
                                       through transformers' Trainer
"""

import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
from shape import write
from transformers import (
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import lengthwise
from lengthwise.measure.tasks.text import read_text, standard_library_files
from lengthwise.train.data.collate import PackedCollator
from lengthwise.train.data.packers import best_fit
from lengthwise.train.data.segments import document_attention

WINDOW = 4096
BATCH = 8  # documents of a padded batch; a packed step has as many on average
STEPS = 5  # timed, after one that warms up


def documents(count: int) -> list[list[int]]:
    """Standard-library files as documents, longer ones truncated to the window as is usual."""
    assets = Path(lengthwise.__file__).parent / "assets" / "lab"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(assets, trust_remote_code=False)
    files = standard_library_files(held_out=False)
    random.Random(0).shuffle(files)
    texts = [text for text in map(read_text, files[: 2 * count]) if text][:count]
    encoded = tokenizer(texts, truncation=True, max_length=WINDOW)["input_ids"]
    return [list(ids) for ids in encoded]


def model() -> LlamaForCausalLM:
    """1.3 million parameters, float32, 2 threads."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=1536, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=WINDOW,
            tie_word_embeddings=True, pad_token_id=2,
        )
    )  # fmt: skip


class StepTimes(TrainerCallback):
    """Seconds of every optimizer step, without what is between steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args, **kwargs) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *args, **kwargs) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def train(rows, batch: int, collator, kernel: str | None) -> list[float]:
    """Seconds of the steps of one pass over the rows, in their order."""
    net, times = model(), StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=batch, num_train_epochs=1,
            learning_rate=1e-3, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
            remove_unused_columns=False, logging_strategy="no",
            train_sampling_strategy="sequential",
        )  # fmt: skip
        trainer = Trainer(
            net, arguments, train_dataset=rows, data_collator=collator, callbacks=[times]
        )
        if kernel is None:
            trainer.train()
        else:
            with document_attention(net, kernel):
                trainer.train()
    return times.seconds


def main() -> None:
    docs = documents(BATCH * (STEPS + 1))
    lengths = [len(doc) for doc in docs]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(
        Path(lengthwise.__file__).parent / "assets" / "lab", trust_remote_code=False
    )
    padded = [{"input_ids": doc} for doc in docs]
    bins = best_fit(lengths, WINDOW)
    random.Random(0).shuffle(bins)
    packed = [
        {
            "input_ids": [token for n in b for token in docs[n]],
            "seq_lengths": [lengths[n] for n in b],
        }
        for b in bins
    ]
    each = -(-len(packed) // (STEPS + 1))
    ways = {
        "padded, Trainer and its collator": (
            padded, BATCH, DataCollatorForLanguageModeling(tokenizer, mlm=False), None,
        ),
        "packed best-fit, sdpa under a mask": (packed, each, PackedCollator(pad=2), "sdpa"),
        "packed best-fit, per document": (packed, each, PackedCollator(pad=2), "per_document"),
    }  # fmt: skip
    results = []
    for who, (rows, batch, collator, kernel) in ways.items():
        seconds = train(rows, batch, collator, kernel)[1:]
        steps = [rows[n : n + batch] for n in range(0, len(rows), batch)][1:]
        tokens = [sum(len(row["input_ids"]) for row in step) for step in steps]
        speeds = [count / s for count, s in zip(tokens, seconds, strict=True)]
        results.append(
            {
                "who": who, "rows a step": batch, "tokens": sum(tokens),
                "tokens a second": {
                    "median": statistics.median(speeds), "low": min(speeds), "high": max(speeds),
                },
                "utilisation": sum(tokens) / sum(
                    collator(step)["input_ids"].numel() for step in steps
                ),
            }
        )  # fmt: skip
        print(f"{who:<36} {statistics.median(speeds):>8.0f} tokens a second", flush=True)
    first = results[0]["tokens a second"]["median"]
    for row in results:
        row["times padded"] = row["tokens a second"]["median"] / first
        print(f"{row['who']:<36} {row['times padded']:.2f} times padded")
    write("packed_training", __doc__.strip().splitlines()[0], results)


if __name__ == "__main__":
    main()
