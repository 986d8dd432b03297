"""Do the papers' claims about lengths in training hold on a small model? Three seeds of each run.

    python experiments/length_curricula.py                      all claims
    python experiments/length_curricula.py --claim grow_length  the runs that one of them needs

From scratch: a Llama of half a million parameters learns the same documents of the Python standard
library (0.9 million tokens, once) in windows of 1,024 tokens, by dataset decomposition, at growing
lengths, in stages, and packed best-fit. Continued: the bundled model, trained on 512 tokens, goes
on at 2,048 with plain, tangled (Untie the Knots) and mixed long and short data (ProLong). The
seed draws weights, the order of documents, and which of them the bundled model goes on with. A run
that is finished is skipped, one that was stopped goes on; the same seed gives the same bits. Two
minutes a run from scratch, one of the others.
"""

import argparse
import itertools
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lab_model import BOS, EOS, Data
from length_claims import COMPARED, judged, runs_of
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import lengthwise
from lengthwise.files import whole_file
from lengthwise.hf.weights import fingerprint
from lengthwise.lab import evidence
from lengthwise.lab.muon import muon_and_adamw
from lengthwise.lab.training import held, learn, side_by_side
from lengthwise.measure.tasks.text import read_text, standard_library_files
from lengthwise.train.data.collate import PackedCollator
from lengthwise.train.data.curriculum import GrowP2
from lengthwise.train.data.decomposition import bucket
from lengthwise.train.data.knots import UntieTheKnots
from lengthwise.train.data.mix import Mix, sweep
from lengthwise.train.data.packers import best_fit
from lengthwise.train.data.segments import document_attention
from lengthwise.train.data.staged import GrowLength, Staged, XGen

ASSETS = Path(lengthwise.__file__).parent / "assets" / "lab"
LENGTH = 1024  # of the longest sequences from scratch
STRETCHED = 2048  # of the longest sequences when the bundled model goes on
STEP = 2048  # tokens of a step
SCRATCH = 900_000  # tokens of documents for a run from scratch
CONTINUED = 40_000  # tokens for a run that goes on
VOCABULARY = 1536
KNOTS, MARKERS = (1536, 1537), (1538, 1539, 1540, 1541, 1542)
SEEDS = 3
PROBLEMS = 20  # of a length and seed

Batches = Iterator[dict[str, Tensor]]


class Corpus:
    """Documents as lists of tokens between `<s>` and `</s>`, in an order drawn from the seed."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.seed = seed
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(ASSETS, trust_remote_code=False)
        cache = folder / "tokens.npz"
        if not cache.exists():
            files = standard_library_files(held_out=False)
            random.Random(0).shuffle(files)
            self._encode(cache, [text for text in map(read_text, files) if text])
        saved = np.load(cache)
        ends = np.cumsum(saved["lengths"])[:-1]
        self.documents = [part.tolist() for part in np.split(saved["tokens"], ends)]
        held_out = [read_text(path) for path in standard_library_files(held_out=True)]
        self.held_out = self.tokenizer(held_out, add_special_tokens=False)["input_ids"]

    def _encode(self, cache: Path, texts: list[str]) -> None:
        print(f"encoding {len(texts)} files", flush=True)
        encoded = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        documents = [[BOS, *ids, EOS] for ids in encoded]
        with whole_file(cache) as fresh, open(fresh, "wb") as file:
            np.savez(
                file,
                tokens=np.concatenate([np.array(d, dtype=np.int32) for d in documents]),
                lengths=np.array([len(d) for d in documents]),
            )

    def part(self, tokens: int, skip: int = 0) -> list[list[int]]:
        """Documents of up to four windows, about so many tokens after about `skip` of others."""
        documents = [d for d in self.documents if len(d) <= 4 * LENGTH]
        ends = np.cumsum([len(d) for d in documents])
        first, last = np.searchsorted(ends, [skip, skip + tokens])
        chosen = documents[first:last]
        random.Random(self.seed).shuffle(chosen)
        return chosen

    def others(self) -> list[list[int]]:
        """Documents that the bundled model goes on with, other ones for every seed."""
        return self.part(CONTINUED, 300_000 + self.seed * CONTINUED)


# Batches. Rows are whole windows, so plain causal attention, unless a batch has segments.


def windows(documents: list[list[int]], length: int, first: int, count: int) -> Tensor:
    """`[count, length]` windows of all documents one after the other, from token `first` on."""
    stream = torch.tensor([token for d in documents for token in d])
    return stream[first : first + count * length].view(count, length)


def fixed(documents: list[list[int]], length: int) -> Batches:
    """Concatenate and cut: what everybody does."""
    stream = sum(map(len, documents)) // STEP * STEP
    for row in windows(documents, length, 0, stream // length).split(STEP // length):
        yield {"input_ids": row, "labels": row}


def staged(documents: list[list[int]], stages: Staged) -> Batches:
    """Concatenate and cut at the length of each stage."""
    first = 0
    for stage in stages.schedule(sum(map(len, documents)) // STEP, STEP):
        whole = windows(documents, stage.length, first, stage.steps * stage.rows)
        first += whole.numel()
        for rows in whole.split(stage.rows):
            yield {"input_ids": rows, "labels": rows}


def decomposed(documents: list[list[int]], seed: int) -> Batches:
    """Dataset decomposition: six buckets of about equal tokens, Grow-P2 over two cycles.

    Most tokens of this corpus lie in files longer than a window; the paper's curricula have equal
    tokens in all buckets, so every sixth of the documents is cut to another largest length.
    """
    sizes = [LENGTH >> k for k in range(6)]
    pieces: dict[int, list[list[int]]] = {size: [] for size in sizes}
    for k, largest in enumerate(sizes):
        mine = documents[k::6]
        found = bucket([len(d) for d in mine], smallest=sizes[-1], largest=largest)
        for size, places in found.pieces.items():
            pieces[size] += [mine[d][start : start + size] for d, start in places.tolist()]
    counts = {size: len(rows) for size, rows in pieces.items()}
    plan = GrowP2(cycles=2).plan(counts, STEP, np.random.default_rng(seed))
    for step in plan.steps:
        rows = torch.tensor([pieces[step.length][n] for n in step.rows])
        yield {"input_ids": rows, "labels": rows}


def packed(documents: list[list[int]], length: int, seed: int) -> Batches:
    """Best-fit: a document is cut only where it is longer than a window; no attention across."""
    pieces = [d[n : n + length] for d in documents for n in range(0, len(d), length)]
    bins = best_fit([len(piece) for piece in pieces], length)
    random.Random(seed).shuffle(bins)
    rows = [
        {
            "input_ids": [token for n in b for token in pieces[n]],
            "seq_lengths": [len(pieces[n]) for n in b],
        }
        for b in bins
    ]
    for n in range(0, len(rows), STEP // length):
        yield PackedCollator(pad=2)(rows[n : n + STEP // length])


def tangled(documents: list[list[int]], chunks: tuple[int, int], seed: int) -> Batches:
    """Untie the Knots over pieces of several documents a window; (1, 1) only concatenates them."""
    untie = UntieTheKnots(KNOTS, MARKERS, range(3, VOCABULARY), chunks=chunks)
    most = UntieTheKnots(KNOTS, MARKERS, range(3, VOCABULARY), chunks=(2, 3))
    pieces = [d[n : n + 700] for d in documents for n in range(0, len(d), 700)]
    random.Random(seed).shuffle(pieces)
    generator = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    group: list[list[int]] = []
    for piece in pieces:
        # Room for the markers of the tangled run in both: they see the same text.
        if sum(map(len, [*group, piece])) + most.added(len(group) + 1) > STRETCHED:
            tangle = untie(group, generator)
            rows.append({"input_ids": tangle.input_ids, "labels": tangle.labels})
            group = []
        group.append(piece)
    for n in range(0, len(rows), STEP // STRETCHED):
        yield PackedCollator(pad=2, unpacked=True)(rows[n : n + STEP // STRETCHED])


def mixed(documents: list[list[int]], long_share: float, seed: int) -> Batches:
    """So large a share of windows of long documents; the rest short ones, packed best-fit."""
    sources = {
        "long": [d[n : n + STRETCHED] for d in documents if len(d) >= 2 * STRETCHED
                 for n in range(0, len(d) - STRETCHED + 1, STRETCHED)],
        "short": [d for d in documents if len(d) <= STRETCHED // 4],
    }  # fmt: skip
    mix = sweep(Mix({"long": 1.0}), Mix({"short": 1.0}), [long_share])[long_share]
    lengths = {name: [len(d) for d in source] for name, source in sources.items()}
    drawn = mix.draw(lengths, CONTINUED, np.random.default_rng(seed), epochs=2)
    chosen = [sources[name][n] for name, numbers in drawn.items() for n in numbers]
    return packed(chosen, STRETCHED, seed)


Run = tuple[str, Callable[[Corpus], Batches]]  # the model it starts from, and its batches
RUNS: dict[str, Run] = {
    "fixed_1024": ("new", lambda c: fixed(c.part(SCRATCH), LENGTH)),
    "fixed_256": ("new", lambda c: fixed(c.part(SCRATCH), LENGTH // 4)),
    "grow_p2": ("new", lambda c: decomposed(c.part(SCRATCH), c.seed)),
    "grow_length": ("new", lambda c: staged(c.part(SCRATCH), GrowLength(64, LENGTH))),
    "xgen": ("new", lambda c: staged(c.part(SCRATCH), XGen(LENGTH))),
    "best_fit": ("new", lambda c: packed(c.part(SCRATCH), LENGTH, c.seed)),
    "plain": ("lab", lambda c: tangled(c.others(), (1, 1), c.seed)),
    "knots": ("lab", lambda c: tangled(c.others(), (2, 3), c.seed)),
    "long_0.0": ("lab", lambda c: mixed(c.documents, 0.0, c.seed)),
    "long_0.6": ("lab", lambda c: mixed(c.documents, 0.6, c.seed)),
    "long_1.0": ("lab", lambda c: mixed(c.documents, 1.0, c.seed)),
}


def model_of(kind: str, seed: int) -> LlamaForCausalLM:
    """A fresh model of half a million parameters, or the bundled one with its window stretched."""
    torch.manual_seed(seed)
    if kind == "new":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY, hidden_size=96, intermediate_size=256,
                num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=3,
                max_position_embeddings=LENGTH, tie_word_embeddings=True,
            )
        )  # fmt: skip
    config = LlamaConfig.from_pretrained(ASSETS, trust_remote_code=False)
    # NTK-aware: 4 times the window is 4 ** (d / (d - 2)) times the base, for heads of d = 32.
    base = 10_000.0 * 4 ** (32 / 30)
    config.rope_parameters = {"rope_type": "default", "rope_theta": base}
    config.max_position_embeddings = STRETCHED
    model = LlamaForCausalLM.from_pretrained(
        ASSETS, config=config, dtype=torch.float32, trust_remote_code=False
    )
    model.resize_token_embeddings(MARKERS[-1] + 1)
    return model


def train(
    model: LlamaForCausalLM, batches: list[dict[str, Tensor]], peak: float, folder: Path, seed: int
) -> dict[str, Any]:
    """One pass; warm up over 10 steps, hold, and fall to zero over the last 40%."""

    def loss(batch: dict[str, Tensor]) -> Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        logits = model(**inputs, use_cache=False).logits[:, :-1]
        return cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())

    parameters = sum(p.numel() for p in model.parameters())
    tokens = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
    config, pairs, steps = model.config, sum(map(_pairs, batches)), len(batches)
    rates = held(muon_and_adamw(model, peak, peak), steps, warmup=10)
    kernel = "per_document" if "segment_ids" in batches[0] else "sdpa"
    with document_attention(model, kernel):
        learned = learn(model, batches, loss, rates, steps, folder, about={"seed": seed})
    # 6 per parameter and token; 4 per pair, layer and channel forward, three times with backward.
    attention = 12 * config.hidden_size * config.num_hidden_layers * pairs
    return {
        "steps": steps, "targets": tokens, "parameters": parameters,
        "flops": 6 * parameters * tokens + attention, "attention_flops": attention,
        "seconds": round(learned.seconds, 1), "cpu_seconds": round(learned.cpu_seconds, 1),
    }  # fmt: skip


def _pairs(batch: dict[str, Tensor]) -> int:
    """Pairs of a query and a key that causal attention within documents computes."""
    if "segment_ids" not in batch:
        rows, length = batch["input_ids"].shape
        return rows * length * (length + 1) // 2
    counts = [row[row >= 0].bincount() for row in batch["segment_ids"]]
    return sum(int((n * (n + 1) // 2).sum()) for n in counts)


@torch.no_grad()
def text_losses(
    model: LlamaForCausalLM, corpus: Corpus, lengths: tuple[int, ...]
) -> dict[str, list[float]]:
    """Nats a token of the first 2,048 tokens, in windows of a length, of every held-out file."""
    model.eval()
    losses: dict[str, list[float]] = {str(length): [] for length in lengths}
    for length, doc in itertools.product(lengths, corpus.held_out):
        starts = range(0, min(len(doc), 2048) - length + 1, length - 1)
        if not starts:
            continue
        rows = torch.tensor([[BOS, *doc[n : n + length - 1]] for n in starts])
        nats = []
        for part in rows.split(STEP // length):
            logits = model(input_ids=part, use_cache=False).logits[:, :-1]
            nats.append(cross_entropy(logits.transpose(1, 2), part[:, 1:], reduction="none"))
        losses[str(length)].append(round(torch.cat(nats).mean().item(), 5))
    return losses


@torch.no_grad()
def recall(model: LlamaForCausalLM, corpus: Corpus) -> dict[str, Any]:
    """Passkeys, key-value pairs, needles and chains of variables in held-out text."""
    model.eval()
    data = Data(torch.tensor(list(itertools.chain(*corpus.held_out))), corpus.tokenizer, 0)
    found = {}
    for length in (1024, STRETCHED):
        rng = random.Random(f"{corpus.seed} {length}")
        losses, right = [], []
        for _ in range(PROBLEMS):
            ids, mask = data._problem(rng, length)
            row, answer = torch.tensor([ids]), torch.tensor(mask)[1:]
            logits = model(input_ids=row, use_cache=False).logits[0, :-1][answer]
            targets = row[0, 1:][answer]
            losses.append(cross_entropy(logits, targets).item())
            right.append((logits.argmax(-1) == targets).float().mean().item())
        found[str(length)] = {
            "answer_loss": [round(one, 5) for one in losses],
            "answer_tokens_right": [round(one, 5) for one in right],
        }
    return found


def cuts(documents: list[list[int]], whole: bool) -> dict[str, int]:
    """Cuts through documents, and documents that fit a window and are cut nevertheless.

    Args:
        whole: Whether a document is cut only where it is longer than a window.
    """
    ends = np.cumsum([0, *map(len, documents)])
    if whole:
        return {"cuts": sum((len(d) - 1) // LENGTH for d in documents), "fitting_documents_cut": 0}
    inside = [(end - 1) // LENGTH - start // LENGTH for start, end in itertools.pairwise(ends)]
    fitting = [n > 0 and len(d) <= LENGTH for n, d in zip(inside, documents, strict=True)]
    return {"cuts": int(sum(inside)), "fitting_documents_cut": int(sum(fitting))}


def run(name: str, seed: int, out: Path) -> dict[str, Any]:
    """Train one of `RUNS` and measure it."""
    kind, make = RUNS[name]
    corpus, model = Corpus(out, seed), model_of(kind, seed)
    batches = list(make(corpus))
    record = {"run": name, "seed": seed, "threads": torch.get_num_threads()}
    peak = 3e-3 if kind == "new" else 5e-4
    record |= train(model, batches, peak, out / f"{name}-{seed}", seed)
    record["fingerprint"] = fingerprint(model)
    lengths = (128, 256, LENGTH) if kind == "new" else (256, STRETCHED)
    record["held_out_loss"] = text_losses(model, corpus, lengths)
    if name in ("fixed_1024", "best_fit"):
        record |= cuts(corpus.part(SCRATCH), whole=name == "best_fit")
    if kind == "lab":
        record["recall"] = recall(model, corpus)
    return record


def main() -> None:
    """Train what is not finished, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--claim", choices=COMPARED, action="append", help="default: all")
    parser.add_argument("--out", type=Path, default=Path("runs/lengths"), help="the runs")
    parser.add_argument("--evidence", type=Path, default=Path("evidence"))
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(out)  # its cache is made before two processes read it
    claims = arguments.claim or list(COMPARED)
    names = [name for claim in claims for name in runs_of(claim)]
    jobs = {f"{name}-{n}": partial(run, name, n, out) for n in range(SEEDS) for name in names}
    found = side_by_side(jobs, out)
    records = {name: [found[f"{name}-{n}"] for n in range(SEEDS)] for name in names}
    for claim in claims:
        made = judged(claim, records, {"texts": len(corpus.held_out), "problems": PROBLEMS})
        print(f"{evidence.write(arguments.evidence, made)}: {made.verdict}", flush=True)


if __name__ == "__main__":
    main()
