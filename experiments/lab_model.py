"""Train the bundled lab model: a small Llama with a window of 512 tokens.

    python experiments/lab_model.py --out runs/lab --tokens 11_000_000

Half of every step is text (the Python standard library found on this machine, without the
held-out files), half is retrieval: passkey, key-value, several needles, variable tracing, at
lengths from 96 tokens to the whole window. A run continues where it was killed: every step
draws its data from (seed, step), so a resumed run sees what an uninterrupted one would.
"""

import argparse
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lengthwise.lab.muon import muon_and_adamw
from lengthwise.lab.training import held, learn
from lengthwise.measure.tasks.passkey import NEEDLE, QUESTION
from lengthwise.measure.tasks.text import read_text, standard_library_files

WINDOW = 512
VOCABULARY = 1536
LENGTHS = (96, 128, 192, 256, 384, 512)  # of retrieval problems
ROWS = 8  # rows of WINDOW tokens for each half of a step
BOS, EOS = 0, 1


def make_tokenizer(texts: list[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits; `<s>` is put before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(r"\n+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=WINDOW,
        clean_up_tokenization_spaces=False,
    )


WORDS = (
    "amber anchor apple arrow autumn badger bamboo barrel basil beacon birch bishop blossom "
    "boulder breeze bridge bronze butter cabin candle canyon carbon castle cedar cellar "
    "cherry chimney cobalt comet copper coral cotton crystal dagger daisy desert dragon eagle "
    "ember engine falcon feather fern forest garden ginger glacier granite harbor hazel "
    "helmet hermit hollow indigo island ivory jacket jasmine jungle kettle lagoon lantern "
    "lemon linen lizard magnet maple marble meadow mirror monsoon mustard needle nickel oasis "
    "olive onyx orchid otter oyster paddle palace panther paper pebble pepper pigeon pine "
    "planet plum pocket prairie quartz rabbit raven ribbon river rocket saddle saffron salmon "
    "sapphire shadow silver spider spruce summit sunset temple thunder tiger timber topaz "
    "tulip turtle valley velvet violet walnut willow winter zephyr "
).split()


def _digits(rng: random.Random) -> str:
    return "".join(rng.choice("0123456789") for _ in range(5))


def _passkey(rng: random.Random) -> tuple[list[str], list[tuple[str, str]]]:
    key = _digits(rng)
    return [NEEDLE.format(key=key)], [(QUESTION, f" {key}")]


def _key_value(rng: random.Random) -> tuple[list[str], list[tuple[str, str]]]:
    pairs = [(word, _digits(rng)) for word in rng.sample(WORDS, rng.choice((2, 4, 6)))]
    asked = rng.sample(pairs, 2)
    return [f"\n{w}: {d}\n" for w, d in pairs], [
        (f"\nThe value of {w} is", f" {d}") for w, d in asked
    ]


def _needles(rng: random.Random) -> tuple[list[str], list[tuple[str, str]]]:
    facts = [(word, _digits(rng)) for word in rng.sample(WORDS, rng.choice((2, 3, 4)))]
    needles = [f"\nThe magic number of the {w} is {d}.\n" for w, d in facts]
    asked = rng.sample(facts, 2)
    return needles, [(f"\nWhat is the magic number of the {w}? It is", f" {d}") for w, d in asked]


def _tracing(rng: random.Random) -> tuple[list[str], list[tuple[str, str]]]:
    first, second, third, other = rng.sample(WORDS, 4)
    value, decoy = _digits(rng), _digits(rng)
    chain = [f"\nVAR {first} = {value}\n", f"\nVAR {second} = VAR {first}\n"]
    if rng.random() < 0.5:
        chain.append(f"\nVAR {third} = VAR {second}\n")
    needles = chain + [f"\nVAR {other} = {decoy}\n"]
    last = third if len(chain) == 3 else second
    return needles, [(f"\nThe value of VAR {last} is", f" {value}")]


Problem = Callable[[random.Random], tuple[list[str], list[tuple[str, str]]]]
PROBLEMS: tuple[Problem, ...] = (_passkey, _key_value, _needles, _tracing)


class Data:
    """Batches as a pure function of (seed, step)."""

    def __init__(self, tokens: Tensor, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self.tokens, self.tokenizer, self.seed = tokens, tokenizer, seed

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def text(self, step: int) -> Tensor:
        """[ROWS, WINDOW] tokens of running text, each row headed by `<s>`."""
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + 2 * step)
        starts = torch.randint(0, len(self.tokens) - WINDOW, (ROWS,), generator=g)
        rows = self.tokens[starts[:, None] + torch.arange(WINDOW - 1)]
        return torch.cat([torch.full((ROWS, 1), BOS), rows.long()], dim=1)

    def retrieval(self, step: int) -> tuple[Tensor, Tensor]:
        """[n, length] problems filled to one length, and a mask of the answers' tokens."""
        rng = random.Random(self.seed * 1_000_003 + 2 * step + 1)
        length = rng.choice(LENGTHS)
        rows, masks = [], []
        for _ in range(ROWS * WINDOW // length):
            row, mask = self._problem(rng, length)
            rows.append(row)
            masks.append(mask)
        return torch.tensor(rows), torch.tensor(masks)

    def _problem(self, rng: random.Random, length: int) -> tuple[list[int], list[bool]]:
        while True:
            needles, asked = rng.choice(PROBLEMS)(rng)
            parts = [self.encode(needle) for needle in needles]
            tail: list[int] = []
            tail_mask: list[bool] = []
            for question, answer in asked:
                for ids, is_answer in ((self.encode(question), False), (self.encode(answer), True)):
                    tail += ids
                    tail_mask += [is_answer] * len(ids)
            tail += [EOS]
            tail_mask += [True]
            room = length - 1 - len(tail) - sum(map(len, parts))
            if room >= 0:
                break
        start = rng.randrange(len(self.tokens) - room)
        filler = self.tokens[start : start + room].tolist()
        if len(parts) > 1 and needles[0].startswith("\nVAR"):  # a chain keeps its order
            cuts = sorted(rng.randint(0, room) for _ in parts)
        else:
            cuts = [rng.randint(0, room) for _ in parts]
        row, at = [BOS], 0
        for cut, part in sorted(zip(cuts, parts, strict=True), key=lambda pair: pair[0]):
            row += filler[at:cut] + part
            at = cut
        row += filler[at:]
        mask = [False] * len(row) + tail_mask
        return row + tail, mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=11_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--muon-lr", type=float, default=3e-3)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--save-every", type=int, default=100, help="steps")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)

    files = standard_library_files(held_out=False)
    random.Random(arguments.seed).shuffle(files)
    texts = [text for text in map(read_text, files) if text]
    if not (out / "tokenizer.json").exists():
        make_tokenizer(texts).save_pretrained(out)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out, trust_remote_code=False)
    if not (out / "tokens.pt").exists():
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        stream = torch.cat([torch.tensor(ids + [EOS], dtype=torch.int32) for ids in encoded])
        torch.save(stream, out / "tokens.tmp")
        os.replace(out / "tokens.tmp", out / "tokens.pt")
    data = Data(torch.load(out / "tokens.pt", weights_only=True), tokenizer, arguments.seed)

    torch.manual_seed(arguments.seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=512, num_hidden_layers=6,
        num_attention_heads=8, num_key_value_heads=4, head_dim=32, max_position_embeddings=WINDOW,
        tie_word_embeddings=True, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    steps = arguments.tokens // (2 * ROWS * WINDOW)
    batches = ((data.text(step), *data.retrieval(step)) for step in range(steps))

    def losses(batch: tuple[Tensor, Tensor, Tensor]) -> Iterator[Tensor]:
        text, rows, answers = batch
        logits = model(input_ids=text, use_cache=False).logits[:, :-1]
        yield cross_entropy(logits.reshape(-1, VOCABULARY), text[:, 1:].reshape(-1))
        logits = model(input_ids=rows, use_cache=False).logits[:, :-1]
        each = cross_entropy(
            logits.reshape(-1, VOCABULARY), rows[:, 1:].reshape(-1), reduction="none"
        )
        yield 0.5 * each.mean() + 0.5 * each[answers[:, 1:].reshape(-1)].mean()

    # Warm up, hold, and fall to zero over the last 40%: a longer run only moves the fall.
    rates = held(muon_and_adamw(model, arguments.muon_lr, arguments.adam_lr), steps, warmup=50)
    learn(
        model, batches, losses, rates, steps, out, about={"seed": arguments.seed},
        save_every=arguments.save_every,
    )  # fmt: skip
    final = LlamaForCausalLM(config)
    final.load_state_dict(model.state_dict())
    final.to(torch.bfloat16).save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")


if __name__ == "__main__":
    main()
