"""Row of the scaling laws of the rotary base: how far do models reach that were tuned with others?

    python experiments/base_rows.py extend/base_law

A Llama of half a million parameters learns the Python standard library in windows of 128 tokens
with the base of 10,000. From each such model twins go on in the same windows, on the same text,
with a smaller base, the same, and larger ones. The reach of one is where its loss on held-out files
first lies 0.1 nats above that of the same tokens with a context inside the window. Three seeds, a
quarter of an hour.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from exact_rows import Row, main, mean
from length_curricula import VOCABULARY, Corpus
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from lengthwise.extend.extrapolation import reach
from lengthwise.hf.weights import fingerprint
from lengthwise.lab.evidence import at_least, at_most, surely_at_least
from lengthwise.lab.training import learn, one_cycle, side_by_side
from lengthwise.measure.tasks.loss import in_window_losses, losses_by_position

WINDOW, HEAD, THETA = 128, 32, 10_000.0
BASES = {"smaller": 500.0, "same": THETA, "larger": 1e5, "much larger": 1e6}
STEPS, TUNED, ROWS, RATE = 700, 150, 16, 3e-3
TEXTS, LONG, BLOCK, SEEDS, ABOVE = 20, 2048, 64, 3, 0.1
FAR = 1024  # from here on the text is beyond the reach of the same base
RUNS = Path("runs/base_rows")


def model_of(base: float) -> Any:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=3 * HEAD, intermediate_size=8 * HEAD,
        num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=3,
        max_position_embeddings=WINDOW, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )  # fmt: skip
    return LlamaForCausalLM(config)


def go_on(model: Any, stream: Tensor, skip: int, steps: int, rate: float, folder: Path) -> None:
    """Steps on the text behind the first `skip` of them."""

    def loss(rows: Tensor) -> Tensor:
        logits = model(input_ids=rows, use_cache=False).logits[:, :-1]
        return cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    rates = one_cycle(torch.optim.AdamW(model.parameters(), weight_decay=0.01), steps, rate)
    batches = stream.view(-1, ROWS, WINDOW)[skip : skip + steps]
    learn(model, batches, loss, rates, steps, folder)


def twins(seed: int) -> dict[str, Any]:
    """One model, and its twins with every base: what they lose, text by text and block by block."""
    corpus = Corpus(RUNS, seed)
    size = (STEPS + TUNED) * ROWS * WINDOW
    documents = corpus.part(size + 4 * LONG)
    stream = torch.tensor([token for one in documents for token in one])[:size]
    torch.manual_seed(seed)
    first = model_of(THETA)
    go_on(first, stream, 0, STEPS, RATE, RUNS / f"first-{seed}")
    held = [one for one in corpus.held_out if len(one) >= LONG][:TEXTS]
    found: dict[str, Any] = {}
    for name, base in BASES.items():
        model = model_of(base)
        model.load_state_dict(first.state_dict())
        go_on(model, stream, STEPS, TUNED, RATE / 3, RUNS / f"{name}-{seed}")
        rows = []
        for text in held:
            ids = torch.tensor([text[:LONG]])
            seen = in_window_losses(model, ids, WINDOW, None)
            over = torch.nn.functional.pad(losses_by_position(model, ids) - seen, (1, 0))
            rows.append(over.view(-1, BLOCK).mean(1).tolist())
        found[name] = {"over": rows, "fingerprint": fingerprint(model)}
    return found


def reached(over: Tensor) -> int:
    """Tokens before the first block whose loss, over all texts `[texts, blocks]`, is too high."""
    high = (over.mean(0) > ABOVE).nonzero()
    return BLOCK * int(high[0]) if len(high) else LONG


def base_law() -> Row:
    RUNS.mkdir(parents=True, exist_ok=True)
    Corpus(RUNS)  # its cache is made before two processes read it
    found = side_by_side({f"twins-{n}": partial(twins, n) for n in range(SEEDS)}, RUNS)
    over = {
        name: torch.tensor([found[f"twins-{n}"][name]["over"] for n in range(SEEDS)]).double()
        for name in BASES
    }  # [seeds, texts, blocks]
    far = {name: one[..., FAR // BLOCK :].mean(-1).flatten() for name, one in over.items()}
    expected = {n: reach(HEAD, WINDOW, WINDOW, b, THETA) for n, b in BASES.items()}
    tokens = {name: [max(reached(one), BLOCK) for one in over[name]] for name in BASES}
    beyond = ("larger", "much larger")
    off = {
        name: mean((torch.tensor(tokens[name]) / expected[name].tokens).log2().abs())
        for name in beyond
    }
    return {
        "model": {"name": "Llamas of half a million parameters trained here", "window": WINDOW,
                  "fingerprint": found["twins-0"]["much larger"]["fingerprint"]},
        "seeds": range(SEEDS), "trained": True, "items": {"texts": TEXTS * SEEDS},
        "numbers": {
            name: {"base": BASES[name], "reach by seed": tokens[name],
                   "predicted": vars(expected[name]),
                   f"nats above the window's behind {FAR:,} tokens": mean(far[name]).value,
                   "by block": [round(x, 3) for x in over[name].mean((0, 1)).tolist()]}
            for name in BASES
        },
        "findings": [
            *(at_most(f"{name}: the reach misses what is predicted by so many doublings", one, 1.0)
              for name, one in off.items()),
            *(surely_at_least(f"{name}: nats saved behind {FAR:,} tokens against the same base",
                              mean(far["same"] - far[name]), 0.0)
              for name in ("smaller", *beyond)),
        ],
        "control": "a twin tuned as long on the same text with the same base",
        "premise": at_least(
            f"with the same base the loss behind {FAR:,} tokens is above the window's, nats",
            mean(far["same"]), 0.3,
        ),
        "settings": {"steps": [STEPS, TUNED], "tokens a step": ROWS * WINDOW},
    }  # fmt: skip


TABLE = {"extend/base_law": base_law}

if __name__ == "__main__":
    main(TABLE)
