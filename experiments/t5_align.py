"""T5's attention alignment on a small T5 trained here at 64 tokens, read at up to 8 windows.

    python experiments/t5_align.py

The encoder reads code with marked pairs of tokens in it, the decoder is given the first of each
pair and asked for the second. There are as many pairs at every length: nothing but the code around
them gets longer. Files of the evaluation are not trained on. Twenty minutes on one core.
"""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import T5Config, T5ForConditionalGeneration

import lengthwise as lw
from lengthwise.extend.method import Method
from lengthwise.extend.scaling.t5_align import attention_statistic
from lengthwise.hf.weights import fingerprint
from lengthwise.lab import evidence
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import Finding, at_least, at_most, surely_at_least
from lengthwise.lab.training import Learned, learn, one_cycle
from lengthwise.measure.engines.reading import with_methods
from lengthwise.measure.statistics.intervals import bootstrap_mean
from lengthwise.measure.tasks.text import read_text, standard_library_files

WINDOW = 64
FACTORS = (1, 2, 4, 8)
PAIRS = 4  # in a text, each after a mark
# Ids: the bundled vocabulary (pairs are of its first WORDS), the mark of a pair, the decoder's
# first input.
WORDS, MARK, START = 64, 1536, 1537
ROWS = 32  # of a step
PLAIN, STRATEGIES = "plain", ("maximum", "entropy")


def tokens_of(files: list[Path], characters: int) -> Tensor:
    """Token ids of the beginnings of files, until there are that many characters."""
    _, tokenizer = lw.load("demo")
    ids: list[int] = []
    for path in files:
        text = read_text(path)[:20_000]
        ids += tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        characters -= len(text)
        if characters < 0:
            break
    return torch.tensor(ids)


def tasks(
    code: Tensor, length: int, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Inputs of the encoder `[count, length]`, and the pairs in the order in which they are asked,
    `[count, PAIRS * 2]`.
    """
    starts = torch.randint(len(code) - length, (count, 1), generator=generator)
    rows = code[starts + torch.arange(length)]
    # Of a text, the firsts differ; both may stand in the code around them, without a mark.
    firsts = torch.rand(count, WORDS, generator=generator).topk(PAIRS).indices
    seconds = torch.randint(WORDS, (count, PAIRS), generator=generator)
    drawn = torch.rand(count, length - 3 * PAIRS, generator=generator).topk(PAIRS).indices
    places = drawn.sort().values + 3 * torch.arange(PAIRS)  # no two overlap
    rows.scatter_(1, places, MARK).scatter_(1, places + 1, firsts).scatter_(1, places + 2, seconds)
    order = torch.rand(count, PAIRS, generator=generator).argsort()  # not that of the text
    return rows, torch.stack([firsts.gather(1, order), seconds.gather(1, order)], 2).flatten(1)


def each_loss(model: T5ForConditionalGeneration, ids: Tensor, asked: Tensor) -> Tensor:
    """Mean loss of the seconds of every text `[n]`, in nats; the firsts are given."""
    before = torch.cat([torch.full((len(ids), 1), START), asked[:, :-1]], 1)
    logits = model(input_ids=ids, decoder_input_ids=before).logits
    each = cross_entropy(logits.transpose(1, 2), asked, reduction="none")
    return each.unflatten(1, (PAIRS, 2))[:, :, 1].mean(1)


def model_of(seed: int) -> T5ForConditionalGeneration:
    """A T5 with a trained length of `WINDOW`; its farthest bucket begins at half of that."""
    config = T5Config(
        vocab_size=START + 1, d_model=128, d_kv=32, d_ff=256, num_layers=3, num_heads=4,
        num_decoder_layers=2, dropout_rate=0.0, decoder_start_token_id=START, n_positions=WINDOW,
        relative_attention_max_distance=WINDOW // 2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return T5ForConditionalGeneration(config)


def train(
    model: T5ForConditionalGeneration, code: Tensor, steps: int, seed: int, folder: Path | None
) -> Learned:
    """Warm-up and cosine; T5's embeddings are large, and so must their steps be."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = model.get_input_embeddings().weight
    others = [weight for weight in model.parameters() if weight is not embeddings]
    groups = [{"params": [embeddings]}, {"params": others}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
    return learn(
        model, (tasks(code, WINDOW, ROWS, generator) for _ in range(steps)),
        lambda batch: each_loss(model, *batch).mean(),
        one_cycle(optimizer, steps, [1e-2, 2e-3]), steps, folder, about={"seed": seed},
    )  # fmt: skip


@torch.no_grad()
def losses_of(
    model: T5ForConditionalGeneration, ids: Tensor, asked: Tensor, methods: tuple[Method, ...]
) -> Tensor:
    """Mean loss of the seconds of every text `[n]`, in nats."""
    with with_methods(model, methods):
        pairs = zip(ids.split(16), asked.split(16), strict=True)
        return torch.cat([each_loss(model, *pair).double() for pair in pairs])


def findings(
    losses: Mapping[str, Mapping[int, Tensor]], entropy: Mapping[int, float]
) -> tuple[Finding, list[Finding]]:
    """The premise and the claim; intervals are of differences between the same texts."""
    plain = losses[PLAIN]
    near, far = plain[1].mean().item(), plain[FACTORS[-1]].mean().item()
    times = FACTORS[-1]
    out = [
        at_least(
            f"plain, attention at {times} windows has a higher entropy than at 1, nats",
            entropy[times] - entropy[1],
            0.1,
        ),
    ]
    premise = at_least(f"plain, loss at {times} windows above that at 1, nats", far - near, 0.05)
    for strategy in STRATEGIES:
        for factor in (4, 8):
            gain = plain[factor] - losses[strategy][factor]
            out.append(
                surely_at_least(
                    f"{strategy}: loss at {factor} windows below plain's, low end of 95%, nats",
                    bootstrap_mean(gain, torch.Generator().manual_seed(0)),
                    0.001,
                )
            )
    best = min(losses[strategy][times].mean().item() for strategy in STRATEGIES)
    # Where plain loses nothing there is nothing to win back, and the finding does not hold.
    says = f"the better strategy leaves at most half of what plain loses at {times} windows, nats"
    out.append(at_most(says, best - near if far - near >= 0.05 else None, max(0.0, far - near) / 2))
    return premise, out


def main() -> None:
    """Train, measure temperatures, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evidence", type=Path, default=Path("evidence"))
    parser.add_argument("--runs", type=Path, help="keeps the training, which goes on after a kill")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    seen = tokens_of(standard_library_files(held_out=False)[::5], 2_000_000)
    unseen = tokens_of(standard_library_files(held_out=True), 400_000)
    model = model_of(args.seed)
    learned = train(model, seen, args.steps, args.seed, args.runs)
    losses = learned.tenths()
    Console(stderr=True).print("losses", [round(loss, 3) for loss in losses])
    draw = torch.Generator().manual_seed(args.seed + 1)
    aligned_on = tasks(seen, FACTORS[-1] * WINDOW, 4, draw)[0].flatten()
    compared: dict[str, tuple[Method, ...]] = {PLAIN: ()}
    for strategy in STRATEGIES:
        method = lw.align_t5(model, aligned_on, FACTORS[1:], strategy=strategy)  # type: ignore[arg-type]
        compared[strategy] = (method,)
        Console(stderr=True).print(strategy, method.temperatures)
    texts = {factor: tasks(unseen, factor * WINDOW, args.texts, draw) for factor in FACTORS}
    scores: dict[str, dict[int, Tensor]] = {}
    for name, methods in compared.items():
        scores[name] = {f: losses_of(model, *texts[f], methods) for f in FACTORS}
        shown = {factor: round(x.mean().item(), 3) for factor, x in scores[name].items()}
        Console(stderr=True).print(name, shown)
    model.set_attn_implementation("eager")
    entropy = {
        factor: attention_statistic(model, aligned_on, factor * WINDOW, 1.0, "entropy")
        for factor in FACTORS
    }
    premise, found = findings(scores, entropy)
    made = evidence.of(
        claims()["extend/t5align"],
        model={"name": "t5", "fingerprint": fingerprint(model), "window": WINDOW},
        seeds=(args.seed,),
        trained=True,
        items={"texts": args.texts},
        numbers={
            "entropy of plain attention at windows, nats": entropy,
            "loss of the seconds at windows, nats": {
                name: {factor: x.mean().item() for factor, x in by.items()}
                for name, by in scores.items()
            },
            "loss of the seconds by chance, nats": math.log(WORDS),
        },
        findings=found,
        control="the same model without a temperature",
        premise=premise,
        spec="lengthwise.align_t5",
        settings={
            **{key: value for key, value in vars(args).items() if key not in ("evidence", "runs")},
            "pairs": PAIRS, "rows": ROWS,
        },
        training={"cpu_seconds": round(learned.cpu_seconds, 1),
                  "losses": [round(loss, 4) for loss in losses]},
        temperatures={
            name: dict(zip(FACTORS[1:], methods[0].temperatures, strict=True))  # type: ignore[attr-defined]
            for name, methods in compared.items()
            if methods
        },
    )  # fmt: skip
    evidence.write(args.evidence, made)
    Console(stderr=True).print(made.verdict, made.reason)


if __name__ == "__main__":
    main()
