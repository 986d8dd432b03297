"""Row of Languini's protocol: recurrent and attention models after equal time, and a plot of both.

    python experiments/compute_rows.py measure/languini

A Llama, an LSTM and a model without context, of about half a million parameters each, learn the
files of the Python standard library in windows of 256 tokens. Each is trained anew for every class
of processor seconds, on as many tokens as it can read in it. Perplexity is per byte, on held-out
files. Three seeds, ten minutes; the plot lies under runs/compute_rows.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from exact_rows import Row, main, mean
from length_curricula import VOCABULARY, Corpus
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from lengthwise.files import write_text
from lengthwise.hf.weights import fingerprint
from lengthwise.lab.evidence import at_least, surely_at_least
from lengthwise.lab.training import side_by_side
from lengthwise.measure.probes.languini import Point, crossing, equal_compute, trend
from lengthwise.measure.report import svg

WINDOW, ROWS, RATE = 256, 8, 3e-3
CLASSES, SEEDS, TEXTS = (4.0, 8.0, 16.0), 3, 20
TOKENS = 1_500_000  # of the text, which is read again from its beginning where it ends
RUNS = Path("runs/compute_rows")
LEFT, RIGHT, TOP, BOTTOM = 80, 480, 24, 324


class Net(nn.Module):
    """Logits `[b, t, vocabulary]` of tokens: a Llama, an LSTM or a layer that sees one token."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "attention":
            config = LlamaConfig(
                vocab_size=VOCABULARY, hidden_size=96, intermediate_size=256,
                num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=3,
                max_position_embeddings=WINDOW, tie_word_embeddings=True,
            )  # fmt: skip
            self.llama: Any = LlamaForCausalLM(config)
            return
        self.embedding = nn.Embedding(VOCABULARY, 128)
        if kind == "recurrent":
            self.body: nn.Module = nn.LSTM(128, 128, num_layers=2, batch_first=True)
        else:
            self.body = nn.Sequential(nn.Linear(128, 1024), nn.GELU(), nn.Linear(1024, 128))

    def forward(self, ids: Tensor) -> Tensor:
        if self.kind == "attention":
            logits: Tensor = self.llama(input_ids=ids, use_cache=False).logits
            return logits
        hidden = self.body(self.embedding(ids))
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return hidden @ self.embedding.weight.T / 128**0.5


KINDS = ("attention", "recurrent", "no context")


class Learner:
    """A contender of `equal_compute`.

    Args:
        held: Held-out texts `[texts, WINDOW + 1]`, and the bytes of what is predicted of each.
    """

    def __init__(self, kind: str, seed: int, stream: Tensor, held: tuple[Tensor, list[int]]):
        torch.manual_seed(seed)
        self.net, self.batches, self.held = Net(kind), stream.view(-1, ROWS, WINDOW + 1), held
        self.optimizer = torch.optim.AdamW(self.net.parameters(), RATE, weight_decay=0.01)
        self.done, self.by_text = 0, torch.zeros(0)

    def step(self) -> int:
        rows = self.batches[self.done % len(self.batches)]
        self.optimizer.param_groups[0]["lr"] = RATE * min(1.0, (self.done + 1) / 20)
        self.optimizer.zero_grad()
        logits = self.net(rows[:, :-1])
        cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.done += 1
        return ROWS * WINDOW

    @torch.no_grad()
    def evaluate(self) -> tuple[float, int]:
        texts, sizes = self.held
        logits = self.net(texts[:, :-1])
        nats = cross_entropy(logits.transpose(1, 2), texts[:, 1:], reduction="none").sum(1)
        self.by_text = nats / torch.tensor(sizes)
        return float(nats.sum()), sum(sizes)


def contest(kind: str, seed: int) -> dict[str, Any]:
    """Points of a kind, and what the one of most compute loses, nats a byte of every text."""
    corpus, made = Corpus(RUNS, seed), []
    ids = [token for one in corpus.part(TOKENS) for token in one]
    stream = torch.tensor(ids[: len(ids) // (ROWS * (WINDOW + 1)) * ROWS * (WINDOW + 1)])
    texts = torch.tensor([one[: WINDOW + 1] for one in corpus.held_out if len(one) > WINDOW])
    texts = texts[:TEXTS]
    sizes = [len(corpus.tokenizer.decode(row[1:]).encode()) for row in texts]

    def make() -> Learner:
        made.append(Learner(kind, seed, stream, (texts, sizes)))
        return made[-1]

    points = equal_compute(make, CLASSES, clock=time.process_time)
    parameters = sum(one.numel() for one in made[-1].net.parameters())
    by_class = [one.by_text.tolist() for one in made[1:]]
    net: Any = made[-1].net
    return {
        "points": [vars(point) for point in points], "nats a byte": by_class,
        "parameters": parameters,
        "fingerprint": fingerprint(net.llama) if kind == KINDS[0] else "",
    }  # fmt: skip


def plot(points: dict[str, list[Point]]) -> str:
    """Perplexity for each byte against processor seconds, a line for each kind."""
    values = [one.perplexity for row in points.values() for one in row]
    x = svg.Scale(CLASSES[0], CLASSES[-1], LEFT, RIGHT, log=True)
    y = svg.Scale(min(values) * 0.98, max(values) * 1.02, BOTTOM, TOP)
    title = "Perplexity for each byte of held-out files, by processor seconds"
    parts = [svg.text(LEFT, BOTTOM + 46, title, "axis")]
    for value in svg.round_steps(y.low, y.high, 5):
        parts.append(svg.line(LEFT, y(value), RIGHT, y(value), "grid"))
        parts.append(svg.text(LEFT - 8, y(value) + 4, f"{value:g}", "axis", "end"))
    for seconds in CLASSES:
        parts.append(svg.text(x(seconds), BOTTOM + 20, f"{seconds:g}", "axis", "middle"))
    for index, (name, row) in enumerate(points.items()):
        own = [(x(one.seconds), y(one.perplexity)) for one in row]
        parts.append(svg.path(own, f"curve c{index}"))
        parts += [svg.dot(*place, f"mark c{index}", name) for place in own]
        parts.append(svg.text(RIGHT + 12, own[-1][1] + 4, name, "axis"))
    return svg.alone(svg.picture(620, 384, title, parts))


def mean_of(runs: list[Any], at: int, key: str) -> float:
    """Over runs, what a point of them says."""
    return float(sum(one["points"][at][key] for one in runs) / len(runs))


def languini() -> Row:
    RUNS.mkdir(parents=True, exist_ok=True)
    Corpus(RUNS)  # its cache is made before two processes read it
    jobs = {
        f"{kind.replace(' ', '_')}-{seed}": partial(contest, kind, seed)
        for seed in range(SEEDS)
        for kind in KINDS
    }
    kept = side_by_side(jobs, RUNS, processes=1)  # or they would take each other's time
    runs = {k: [kept[f"{k.replace(' ', '_')}-{n}"] for n in range(SEEDS)] for k in KINDS}
    nats = {k: torch.tensor([one["nats a byte"] for one in some]) for k, some in runs.items()}
    points = {
        kind: [
            Point(seconds, round(mean_of(some, n, "tokens")), round(mean_of(some, n, "steps")),
                  mean_of(some, n, "perplexity"))
            for n, seconds in enumerate(CLASSES)
        ]
        for kind, some in runs.items()
    }  # fmt: skip
    write_text(RUNS / "languini.svg", plot(points))
    laws = {kind: trend(points[kind]) for kind in KINDS[:2]}
    last = {kind: one[:, -1].flatten() for kind, one in nats.items()}  # of all seeds and texts
    better, worse = sorted(KINDS[:2], key=lambda kind: float(last[kind].mean()))
    falls = {kind: (nats[kind][:, 0] - nats[kind][:, -1]).flatten() for kind in KINDS[:2]}
    return {
        "model": {"name": "a Llama and an LSTM trained here", "window": WINDOW,
                  "fingerprint": runs["attention"][0]["fingerprint"]},
        "seeds": range(SEEDS), "trained": True,
        "items": {"texts": len(last["attention"])},
        "numbers": {
            kind: {"parameters": runs[kind][0]["parameters"], "points": [*map(vars, some)]}
            for kind, some in points.items()
        } | {"trends": {kind: vars(law) for kind, law in laws.items()},
             "they cross at, seconds": crossing(*laws.values())},
        "findings": [
            *(surely_at_least(f"{kind}: nats a byte that the longest class saves over the shortest",
                              mean(one), 0.0) for kind, one in falls.items()),
            at_least(f"after {CLASSES[-1]:g} seconds {better} is below {worse}, nats a byte",
                     mean(last[worse] - last[better]), 0.0, against=worse),
        ],
        "control": "a model without context at the same compute",
        "premise": at_least(
            "which is above the better of them, nats a byte",
            mean(last["no context"] - last[better]), 0.05,
        ),
        "classes": CLASSES, "plot": str(RUNS / "languini.svg"),
    }  # fmt: skip


TABLE = {"measure/languini": languini}

if __name__ == "__main__":
    main(TABLE)
