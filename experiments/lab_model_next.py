"""Train the next bundled model: several kinds of text, the suites' problems, window 512.

    python experiments/lab_corpus.py --out corpus
    python experiments/lab_model_next.py --corpus corpus --out runs/flat --warmup 300
    python experiments/lab_model_next.py --corpus corpus --out runs/decay --after runs/flat \\
        --warmup 50 --decay 0.5
    python experiments/lab_model_next.py --corpus corpus --out runs/end --after runs/decay --fall \\
        --decay 0.5 --sinks 0.5 --steps 2500

The first two hold their learning rates and have no end: killed and begun again they go on, in the
same bits. What comes after another takes its newest checkpoint. The last lets the rate fall to
zero, and writes the model; the one before it can go on all the same. Every step draws its data
from (seed, step): half text, half problems, short ones first (see `lab_problems`).

Heads of large models leave much of their weight on the first token. In small ones that read few
tokens this has hardly begun, so the last run pulls it there: `--sinks 0.5` adds to the loss of
text how far the mean weight of the first token in each head is below a half.
"""

import argparse
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lab_corpus import read_kinds
from lab_fast import hidden, loss_of, optimizers
from lab_model import BOS, EOS, WINDOW, make_tokenizer
from lab_problems import KINDS, Row, dense_pairs, encoder, in_text, of_task, repeated
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lengthwise.files import whole_file
from lengthwise.lab.training import CONSOLE, learn
from lengthwise.train.loop.checkpoint import load_checkpoint, save_checkpoint
from lengthwise.train.places import CHECKPOINTS, RUN

VOCABULARY, PAD = 2048, 2
ENDLESS = 1_000_000
NEAR = 32  # tokens that have few others to look at
# From a step on: tokens of a step, half text and half problems; lengths of rows; and of the
# problems, the shares of tokens repeated without sense, of dense pairs, of problems in a text, and
# (the rest) of the suites' own.
STAGES = (
    (0, 2048, (64, 96, 128), (0.3, 0.5, 0.2)),
    (500, 2048, (96, 128, 192, 256), (0.15, 0.4, 0.2)),
    (2000, 4096, (128, 192, 256, 384, 512), (0.05, 0.2, 0.15)),
    (4000, 4096, (128, 256, 384, 512, 512, 512), (0.03, 0.1, 0.12)),
)
# Shares of the kinds of text; Python, which the first model read alone, stays the largest.
TEXTS = {"python": 4, "essay": 1.5, "manual": 1.5, "dictionary": 1.5, "bible": 1, "handbook": 0.5}


class Data:
    """Batches as a pure function of (seed, step)."""

    def __init__(
        self, kinds: dict[str, Tensor], tokenizer: PreTrainedTokenizerFast, seed: int
    ) -> None:
        self.kinds, self.seed = kinds, seed
        self.encode = encoder(tokenizer)

    def batches(self, first: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """From step `first` on, without end."""
        step = first
        while True:
            yield self.batch(step)
            step += 1

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of text, rows of problems, and which tokens of these are answers."""
        rng = random.Random(f"next lab model {self.seed} {step}")
        size, lengths, shares = next(stage[1:] for stage in reversed(STAGES) if step >= stage[0])
        text_length, length = rng.choice(lengths), rng.choice(lengths)
        text = torch.stack([self.text(rng, text_length) for _ in range(size // 2 // text_length)])
        rows = [self.problem(rng, length, shares) for _ in range(size // 2 // length)]
        width = max(len(row.ids) for row in rows)
        ids = [row.ids + [PAD] * (width - len(row.ids)) for row in rows]
        answers = [row.answers + [False] * (width - len(row.ids)) for row in rows]
        return text, torch.tensor(ids), torch.tensor(answers)

    def text(self, rng: random.Random, length: int) -> Tensor:
        """[length] tokens of running text of one kind, headed by `<s>`."""
        tokens = self.kinds[rng.choices([*TEXTS], [*TEXTS.values()])[0]]
        start = rng.randrange(len(tokens) - length)
        return torch.cat([torch.tensor([BOS]), tokens[start : start + length - 1].long()])

    def problem(self, rng: random.Random, length: int, shares: tuple[float, float, float]) -> Row:
        """A problem between `<s>` and `</s>`, of at most `length` tokens."""
        row, room = None, length - 2
        draw = rng.random()
        if draw < shares[0]:
            row = repeated(rng, room, VOCABULARY, PAD + 1)
        elif draw < shares[0] + shares[1]:
            row = dense_pairs(rng, self.encode, room)
        elif draw > sum(shares):
            for _ in range(8):  # most tasks do not fit the shortest lengths
                kind = rng.choices([*KINDS], [kind.weight for kind in KINDS.values()])[0]
                task = rng.choice(KINDS[kind].tasks)
                row = of_task(task, f"{rng.getrandbits(64)}", self.encode, room)
                if row is not None:
                    break
        if row is None:
            tokens = self.kinds[rng.choice([*TEXTS])]
            start = rng.randrange(len(tokens) - length)
            row = in_text(rng, self.encode, tokens[start : start + length].tolist(), room)
        return Row([BOS, *row.ids, EOS], [False, *row.answers, True])


def configuration() -> LlamaConfig:
    """As the first model's, with a larger vocabulary, and heads twice as wide.

    Of 16 rates in a head of 32, 6 turn slowly enough to compare tokens far apart; of 32 it is 12.
    """
    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=512, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=WINDOW,
        tie_word_embeddings=True, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip


def prepared(corpus: Path, out: Path, seed: int) -> tuple[Data, PreTrainedTokenizerFast]:
    """The tokenizer, and every kind of text as tokens; made once in `out`."""
    kinds = read_kinds(corpus)
    if not (out / "tokenizer.json").exists():
        texts = [text for kind in TEXTS for text in sampled(kinds[kind], kind, 2_000_000)]
        make_tokenizer(texts + prompts(2000), VOCABULARY).save_pretrained(out)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out, trust_remote_code=False)
    if not (out / "tokens.pt").exists():
        encode = encoder(tokenizer)
        tokens = {}
        for kind in TEXTS:
            texts = sampled(kinds[kind], kind, 24_000_000)
            ids = [token for text in texts for token in [*encode(text), EOS]]
            tokens[kind] = torch.tensor(ids, dtype=torch.int16)
        with whole_file(out / "tokens.pt") as fresh:
            torch.save(tokens, fresh)
    return Data(torch.load(out / "tokens.pt", weights_only=True), tokenizer, seed), tokenizer


def sampled(texts: list[str], kind: str, characters: int) -> list[str]:
    """Texts of a kind, drawn, in proportion to its share of the training."""
    rng, found, size = random.Random(kind), list[str](), 0
    most = characters * TEXTS[kind] / max(TEXTS.values())
    for text in rng.sample(texts, len(texts)):
        if size >= most:
            break
        found.append(text[: int(most - size)])
        size += len(found[-1])
    return found


def prompts(count: int) -> list[str]:
    """Questions of the suites with their answers, for the tokenizer."""
    every = [task for kind in KINDS.values() for task in kind.tasks]
    found = []
    for i in range(count):
        task, rng = every[i % len(every)].sized(WINDOW), random.Random(f"words {i}")
        page = task.drawn(i, rng, lambda text: len(text) // 3)(task.least + 2)
        found.append(f"{page.prompt()} {page.answer}")
    return found


def after(run: Path, place: Path, states: list[Any]) -> int:
    """Lay a copy of a run's newest checkpoint into `place`, load it, and say how many steps it has.

    Args:
        states: The model, and the optimizers if they are to go on with what they know.

    Raises:
        ValueError: The run has no checkpoint yet.
    """
    if not place.is_dir():
        found = load_checkpoint(run / CHECKPOINTS, CONSOLE.print, torch.device("cpu"))
        if found is None:
            raise ValueError(f"{run} has no checkpoint yet; let it run for longer")
        save_checkpoint(place, found[0] + begun_at(run), found[1])
    found = load_checkpoint(place, CONSOLE.print, torch.device("cpu"))
    assert found is not None
    for one, kept in zip(states, found[1]["states"], strict=False):
        one.load_state_dict(kept)
    return found[0]


def begun_at(run: Path) -> int:
    """The step at which a run began: 0, or where the one before it stood."""
    return int(json.loads((run / RUN).read_text("utf-8"))["begun"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="made by lab_corpus.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--after", type=Path, help="a run whose newest checkpoint this goes on from"
    )
    parser.add_argument("--fall", action="store_true", help="let the rate fall to zero at the end")
    parser.add_argument("--steps", type=int, default=ENDLESS)
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.1, help="of weights")
    parser.add_argument(
        "--sinks", type=float, default=0.0, help="share that heads are pulled to leave on `<s>`"
    )
    parser.add_argument("--warmup", type=int, default=100, help="steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=50, help="steps")
    given = parser.parse_args()
    train(given)


def train(given: argparse.Namespace) -> LlamaForCausalLM:
    """The run that the options name; at its end the model is written."""
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    if given.after is not None:
        for name in ("tokenizer.json", "tokenizer_config.json", "tokens.pt"):
            shutil.copy(given.after / name, out / name)
    data, tokenizer = prepared(given.corpus, out, given.seed)
    torch.manual_seed(given.seed)
    model = LlamaForCausalLM(configuration())
    stepping = optimizers(model, given.optimizer, given.rate, given.decay)
    begun, steps = 0, given.steps
    if given.after is not None:
        same = json.loads((given.after / RUN).read_text("utf-8"))["optimizer"] == given.optimizer
        begun = after(given.after, out / "begun", [model, *stepping] if same else [model])

    def share(step: int) -> float:
        return 1 - step / steps if given.fall else min(1.0, (step + 1) / given.warmup)

    for optimizer in stepping:  # a schedule begins with the rate that it finds
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] = given.rate
    rates: list[LRScheduler] = [LambdaLR(optimizer, share) for optimizer in stepping]

    def losses(batch: tuple[Tensor, Tensor, Tensor]) -> Iterator[Tensor]:
        text, rows, answers = batch
        states, first = hidden(model, text)
        states = states[:, :-1]
        left = first[..., NEAR:].float().mean((1, 3))  # of every layer's heads
        lack = (given.sinks - left).clamp(min=0).mean()
        yield loss_of(model, states.flatten(0, 1), text[:, 1:].flatten()) + lack
        states, asked = hidden(model, rows)[0][:, :-1], answers[:, 1:]
        yield loss_of(model, states[asked], rows[:, 1:][asked])

    about = {
        name: getattr(given, name)
        for name in ("seed", "fall", "optimizer", "rate", "decay", "warmup", "sinks")
    }
    about["begun"] = begun
    learn(
        model, data.batches(begun), losses, rates, steps, out, about=about,
        save_every=given.save_every,
    )  # fmt: skip
    final = LlamaForCausalLM(configuration())
    final.load_state_dict(model.state_dict())
    final.to(torch.bfloat16).save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    return model


if __name__ == "__main__":
    main()
