"""Rows of probes and of what is counted on the bundled model: neighbours, context, edits, bytes.

    python experiments/probe_rows.py measure/knn_lm

Texts are the held-out files of Python's standard library.
"""

import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
from exact_rows import Row, main, mean
from torch import Tensor

import lengthwise as lw
from lengthwise.hf.families import read_geometry
from lengthwise.hf.weights import fingerprint
from lengthwise.lab.evidence import at_least, at_most, exact, share
from lengthwise.measure.cost.devices import DEVICES
from lengthwise.measure.cost.plan import kv_bytes, lengthwise_kv_bytes, serving_cost
from lengthwise.measure.cost.speed import cache_bytes
from lengthwise.measure.engines.reading import first_token, read_to_end
from lengthwise.measure.probes.knn import (
    NeighbourStore,
    entropy_growth,
    generation_study,
    mixture,
    states,
)
from lengthwise.measure.probes.length_probing import ContextLengthProbing, importance
from lengthwise.measure.tasks.passkey import NEEDLE, QUESTION
from lengthwise.measure.tasks.text import held_out_text, read_text, standard_library_files

WINDOW = 512
BLOCK = 32  # tokens that are averaged over, because neighbours depend on each other


def bundled() -> tuple[Any, Any, dict[str, Any]]:
    """The bundled model, its tokenizer, and what the file says of it."""
    model, tokenizer = lw.load("demo", dtype=torch.float32)
    model.eval()
    about = {"name": "demo", "fingerprint": fingerprint(model), "window": WINDOW}
    return model, tokenizer, about


def longest_files(tokenizer: Any, count: int, tokens: int) -> list[Tensor]:
    """The first tokens of held-out files."""
    files = [tokenizer(read_text(path), verbose=False)["input_ids"]
             for path in standard_library_files(held_out=True)]  # fmt: skip
    whole = [torch.tensor(ids[:tokens]) for ids in files if len(ids) >= tokens]
    if len(whole) < count:
        raise ValueError(f"only {len(whole)} held-out files have {tokens:,} tokens")
    return whole[:count]


def knn_lm() -> Row:
    """Each file's first part is the store of its second; the mixture is a quarter of neighbours."""
    model, tokenizer, about = bundled()
    part, after, quarter = 5 * WINDOW, 2 * WINDOW, 0.25
    texts = longest_files(tokenizer, 6, part + after)
    gained: list[float] = []
    shuffled: list[float] = []
    hurt, stores = [], []
    for ids in texts:
        store = NeighbourStore.of(model, ids[:part], window=WINDOW)
        order = torch.randperm(len(store.values), generator=torch.Generator().manual_seed(0))
        wrong = NeighbourStore(store.keys, store.values[order])
        stores.append(store)
        for piece in ids[part:].split(WINDOW):
            hidden, predicted, _ = states(model, piece[None, :-1])
            aim = piece[1:, None]
            plain = -predicted[0].gather(1, aim)[:, 0]
            for who, into in ((store, gained), (wrong, shuffled)):
                near = who.predict(hidden[0], predicted.shape[-1])
                mixed = -mixture(predicted[0], near, quarter).gather(1, aim)[:, 0]
                into += [float(one.mean()) for one in (mixed - plain).split(BLOCK)]
                if who is store:
                    worse = (mixed > plain).double()
                    hurt += [float(one.mean()) for one in worse.split(BLOCK)]
    prompts = [ids[part + n : part + n + 64] for ids in texts for n in (0, 256, 512, 768)]
    own, found = [], []
    generator = torch.Generator().manual_seed(0)
    for number, prompt in enumerate(prompts):
        a, b, _ = generation_study(model, stores[number // 4], [prompt], 128, quarter, generator)
        own.append(a)
        found.append(b)
    growth = entropy_growth(torch.cat(own), torch.cat(found), torch.Generator().manual_seed(0))
    return {
        "model": about,
        "items": {"texts": len(texts), "blocks": len(gained), "generated": len(prompts)},
        "numbers": {
            "loss saved, mean over tokens": -mean(gained).value,
            "tokens hurt": mean(hurt).value,
            "entropy a hundred tokens": {
                "model": vars(growth.plain), "neighbours": vars(growth.retrieved)
            },
        },
        "control": "the same neighbours with the tokens after them shuffled",
        "premise": at_least(
            "with shuffled tokens the mixture loses, nats a token", mean(shuffled), 0.05
        ),
        "findings": [
            at_most("the mixture's loss less the model's, nats a token", mean(gained), -0.02,
                    "the model alone"),
            at_least("share of the tokens whose loss it raises", mean(hurt), 0.5),
            at_least(
                "the neighbours' entropy grows faster while writing, nats a hundred tokens",
                growth.faster, 0.0, "the model's entropy",
            ),
        ],
    }  # fmt: skip


def length_probing() -> Row:
    """A passkey is planted and asked for: on which token back does its first digit rest?"""
    model, tokenizer, about = bundled()
    lines = [one for one in held_out_text().splitlines() if 8 < len(one.strip()) < 25]
    probing = ContextLengthProbing(72, batch=72, head=first_token(tokenizer))

    def tokens(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    hits: list[float] = []
    blind: list[float] = []
    gains = []
    for item in range(20):
        rng = random.Random(item)
        first, between = "\n" + rng.choice(lines), "\n" + rng.choice(lines)
        key, other = (str(rng.randrange(10_000, 100_000)) for _ in range(2))
        for planted in (key, other):
            head, tail = NEEDLE.split("{key}", 1)[0], NEEDLE.rsplit("{key}", 1)[1]
            text = first + NEEDLE.format(key=planted) + between + QUESTION
            asked = tokens(text) + tokens(" " + key)[:-4]  # to its first digit
            # Tokens back to the first digit of either time it was planted.
            nearest = tokens(tail + between + QUESTION)
            middle = tokens(NEEDLE.removeprefix(head).removeprefix("{key}").split("{key}")[0])
            near = len(nearest) + 6
            far = near + len(middle) + 5
            row = importance(probing.losses(model, torch.tensor(asked)))[-1].nan_to_num(-9)
            peak = int(row.argmax()) + 1
            hit = min(abs(peak - near), abs(peak - far)) <= 3
            (hits if planted == key else blind).append(float(hit))
            if planted == key:
                gains.append(float(row[near - 7 : near + 3].sum() + row[far - 4 : far + 3].sum()))
    return {
        "model": about,
        "items": {"texts": len(hits)},
        "numbers": {"peaks at the plant": sum(hits), "nats that it is worth": gains},
        "control": "the same texts with another number planted",
        "premise": at_most(
            "with another number the peak lies there", share(sum(blind), len(blind)), 0.5
        ),
        "findings": [
            at_least(
                "the peak lies within three tokens of the planted digit",
                share(sum(hits), len(hits)), 0.6,
            ),
            at_least("nats that the plant is worth to the digit", mean(gains), 1.0),
        ],
    }  # fmt: skip


def pie() -> Row:
    """Edits as in benchmarks/edit.py: what the next tokens lose, and what an edit costs."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    from edit import (  # type: ignore[import-not-found]
        compare,
        example,
        read,
        score,
        unturned,
    )

    model, tokenizer, about = bundled()
    lw.adapt(model)
    lines = held_out_text().splitlines(keepends=True)
    rng = random.Random(0)
    kept: list[float] = []
    left: list[float] = []
    for number in range(36):
        task = ("insert", "delete", "replace")[number % 3]
        before, span, new, ahead = example(task, lines, tokenizer, rng)
        final = before[: span[0]] + new + before[span[1] :]
        truth = score(model, read(model, final), final, ahead)
        for cache, into in (
            (lw.edit(read(model, before), span, new), kept),
            (unturned(model, before, span, new), left),
        ):
            into.append(compare(score(model, cache, final, ahead), truth, ahead)["kl_nats"])
    text = tokenizer(held_out_text(), verbose=False)["input_ids"][:4096]
    cache, ratios = read(model, text), []
    for at in (400, 1200, 2000, 2800, 3600):
        began = time.process_time()
        read(model, text)
        again = time.process_time() - began
        began = time.process_time()
        lw.edit(cache, (at, at + 40), text[at : at + 41])
        ratios.append((time.process_time() - began) / again)
    lw.restore(model)
    more = torch.tensor(left) - torch.tensor(kept)
    return {
        "model": about,
        "items": {"texts": len(kept), "timings": len(ratios)},
        "numbers": {"KL from reading again": kept, "keys left unturned": left, "cost": ratios},
        "control": "the same edits with the keys behind them left as they were turned",
        "premise": at_least("keys left unturned: KL from reading again, nats", mean(left), 0.02),
        "findings": [
            at_most("KL of the next tokens from reading again, nats", mean(kept), 0.01),
            at_least("which is less than with unturned keys by", mean(more), 0.02,
                     "keys left unturned"),
            at_most("an edit of 1% of 4,096 tokens takes of the time of reading again",
                    mean(ratios), 0.2),
        ],
    }  # fmt: skip


def cost_model() -> Row:
    """Bytes of keys that were predicted beside those of the cache itself, three models."""
    from real_models import get

    off, ours, naive, kinds, described = {}, {}, [], {}, None
    for name, lengths in (("demo", (200, 1025, 2560)), ("smollm2", (300,)), ("gemma3", (700,))):
        model, tokenizer = lw.load(name if name == "demo" else get(name), dtype=torch.bfloat16)
        model.eval()
        described = described or {
            "name": "demo",
            "fingerprint": fingerprint(model),
            "window": WINDOW,
        }
        geometry = read_geometry(model)
        for length in lengths:
            ids = torch.tensor([tokenizer(held_out_text(), verbose=False)["input_ids"][:length]])
            with torch.no_grad():
                layers = read_to_end(model, ids)[1].layers
            found = sum(kept.nbytes for layer in layers for kept in (layer.keys, layer.values))
            off[f"{name} {length}"] = kv_bytes(geometry, length, 2) - found
            every = 2 * geometry.heads * geometry.head_dim * 2 * len(geometry.layers) * length
            naive.append(every / found)
            with lw.adapted(model), torch.no_grad():
                held = cache_bytes(read_to_end(model, ids)[1])
            ours[f"{name} {length}"] = lengthwise_kv_bytes(geometry, length, torch.bfloat16) - held
        cost = serving_cost(model, DEVICES["h100"], 8192, 1, torch.bfloat16)
        kinds[name] = {key: getattr(cost, key) for key in ("prefill", "users", "decode", "swap")}
    given = sum(value is not None for one in kinds.values() for value in one.values())
    return {
        "model": described,
        "items": {"texts": len(off)},
        "numbers": {
            "bytes, predicted less held": off, "in our cache": ours,
            "8,192 tokens on an H100": kinds,
        },
        "control": "the same formula with a key for every head and no windows",
        "premise": exact(
            at_least("that formula is too high by at least a factor of", min(naive), 1.2)
        ),
        "findings": [
            exact(at_most("bytes by which transformers' cache differs, at most",
                          max(map(abs, off.values())), 0)),
            exact(at_most("bytes by which ours differs, at most", max(map(abs, ours.values())), 0)),
            exact(at_least("costs that are named, four of each model", given, 4 * len(kinds))),
        ],
    }  # fmt: skip


ROWS = {
    "measure/knn_lm": knn_lm,
    "measure/length_probing": length_probing,
    "measure/cost_model": cost_model,
    "extend/pie": pie,
}

if __name__ == "__main__":
    main(ROWS)
