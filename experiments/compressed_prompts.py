"""Prompts whose keys are dropped once, at their end: does the model still answer?

    python experiments/compressed_prompts.py                 all claims, on the bundled model
    python experiments/compressed_prompts.py --only snapkv   one of them
    python experiments/compressed_prompts.py --only adakv --model smollm2

SnapKV and its kin keep a few keys of a prompt: those that its last queries, or all of them,
attended to. Here that happens once, when a prompt of about 500 tokens has been read, as in papers:
`every` is the prompt's length. Answers are passkeys, hidden in the standard library's files and in
its manual; their first token still sees all keys, so it does not count. PrefixKV's budgets are
searched on other texts than they are judged on. Minutes of computing; what is measured is kept
under --runs.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from pydoc_data import topics

import torch
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import lengthwise as lw
from lengthwise.extend.method import Method
from lengthwise.files import write_text
from lengthwise.hf.weights import fingerprint
from lengthwise.lab import evidence
from lengthwise.lab.claims import Claim, claims
from lengthwise.lab.evidence import Evidence, Finding, at_least, at_most, share
from lengthwise.measure.engines.greedy import with_answers
from lengthwise.measure.engines.reading import first_token
from lengthwise.measure.statistics.intervals import Interval, bootstrap_mean
from lengthwise.measure.tasks import Passkey
from lengthwise.measure.tasks.loss import losses_by_position
from lengthwise.measure.tasks.text import held_out_text
from lengthwise.search.prefix import attention_curves
from lengthwise.search.windows import text_windows

WINDOW, ITEMS = 512, 28
KEYS, FEW, RECENT = 64, 16, 8  # left of a prompt; the newest among them
PROMPT, LEFT, TEXTS = 384, 64, 20  # of PrefixKV: read, kept on average, and texts gone on with
SEARCHED = 4  # texts of the search


class Run:
    """The model, and what it has been measured with so far.

    Args:
        folder: Where measurements are kept.
        name: `demo`, or a name of experiments/real_models.py, which is read in bfloat16.
    """

    def __init__(self, folder: Path, name: str = "demo") -> None:
        self.model: PreTrainedModel
        self.tokenizer: PreTrainedTokenizerBase
        self.name, dtype = name, torch.float32
        where: str | Path = name
        if name in evidence.REAL:
            from real_models import get

            where, dtype = get(name), torch.bfloat16
        self.model, self.tokenizer = lw.load(where, dtype=dtype)
        self.model.eval()
        self.folder, self.fingerprint = folder, fingerprint(self.model)
        texts = (held_out_text(), "\n".join(topics.topics.values()))
        built = [
            Passkey(text).build(self.tokenizer, WINDOW, ITEMS // len(texts), seed)
            for seed, text in enumerate(texts)
        ]
        self.items = [item for items in built for item in items]
        self.allowance = self.items[0].allowance
        self.prompt = WINDOW - self.allowance

    @property
    def about(self) -> dict[str, object]:
        """What the file says of the model."""
        trained = self.model.config.max_position_embeddings
        return {"name": self.name, "fingerprint": self.fingerprint, "window": trained,
                "dtype": str(self.model.dtype).removeprefix("torch.")}  # fmt: skip

    def claim(self, name: str) -> Claim:
        """The entry of a claim on this model."""
        return claims()[f"extend/{name}" + f"@{self.name}" * (self.name != "demo")]

    def kept(self, name: str, measure: Callable[[], list[float]]) -> Tensor:
        """Numbers of a name, measured if they are not known."""
        file = self.folder / f"{self.fingerprint}.json"
        known = json.loads(file.read_text("utf-8")) if file.exists() else {}
        if name not in known:
            Console(stderr=True).print(name)
            known[name] = [round(number, 6) for number in measure()]
            write_text(file, json.dumps(known, indent=1) + "\n")
        return torch.tensor(known[name], dtype=torch.float64)

    def answers(self, *methods: Method) -> tuple[Tensor, Tensor]:
        """Nats a token of every right answer, and whether the model would have given it."""

        def measure() -> list[float]:
            nats, found = [], []
            with lw.adapted(self.model, *methods):
                for ids, size in with_answers(self.tokenizer, self.items):
                    losses = losses_by_position(self.model, ids[None])[0, 1 - size :]
                    nats.append(losses.mean().item())
                    found.append(float(losses.max() < 0.6931))  # each more likely than all others
            return [*nats, *found]

        both = self.kept(f"answers {methods!r} {self.prompt}", measure)
        return both[:ITEMS], both[ITEMS:]

    def pieces(self) -> tuple[Tensor, Tensor]:
        """Texts to search on, and others to judge on, `[n, WINDOW]`, from two halves of one."""
        ids = self.tokenizer(held_out_text(), add_special_tokens=False, verbose=False)["input_ids"]
        half, head = len(ids) // 2, first_token(self.tokenizer)
        parts = ((ids[:half], SEARCHED), (ids[half:], TEXTS))
        found = [text_windows(torch.tensor(x), WINDOW, n, head).texts for x, n in parts]
        return torch.stack(found[0]), torch.stack(found[1])

    def loss_behind(self, *methods: Method) -> Tensor:
        """Nats a token behind the prompt of every text that is judged on."""

        def measure() -> list[float]:
            with lw.adapted(self.model, *methods):
                rows = [losses_by_position(self.model, row[None])[0] for row in self.pieces()[1]]
            return [row[PROMPT:].mean().item() for row in rows]

        return self.kept(f"behind {methods!r} {PROMPT}", measure)


def mean(values: Tensor) -> Interval:
    return bootstrap_mean(values, torch.Generator().manual_seed(0))


def streaming(run: Run, keys: int) -> lw.StreamingLLM:
    """The control, which has no fewer keys at the end of an answer."""
    return lw.StreamingLLM(sinks=4, window=keys - 4 + run.allowance)


def shares(run: Run, **methods: Method) -> dict[str, dict[str, float]]:
    return {
        name: {"nats": run.answers(method)[0].mean().item(),
               **share(run.answers(method)[1].sum().item(), ITEMS)}
        for name, method in methods.items()
    }  # fmt: skip


def made(
    run: Run, name: str, store: Method, keys: int, others: Sequence[Finding] = (), **more: Method
) -> Evidence:
    """The evidence of a store that finds what StreamingLLM does not."""
    control = streaming(run, keys)
    nats, found = run.answers(store)
    findings = [
        at_least(
            f"with {keys} of {run.prompt} keys the share of passkeys found, beyond StreamingLLM's",
            mean(found - run.answers(control)[1]), 0.25, against="StreamingLLM", of=ITEMS,
        ),
        *others,
    ]  # fmt: skip
    numbers = shares(run, **{run.claim(name).system: store}, StreamingLLM=control, **more)
    numbers["full cache"] = {
        "nats": run.answers()[0].mean().item(),
        **share(run.answers()[1].sum().item(), ITEMS),
    }
    return evidence.of(
        run.claim(name),
        model=run.about,
        items={"texts": 2, "passkeys": ITEMS},
        numbers=numbers,
        findings=findings,
        control="StreamingLLM, which holds no fewer keys" + ", and SnapKV" * ("SnapKV" in more),
        premise=at_most(
            "StreamingLLM finds at most half of the passkeys",
            share(run.answers(control)[1].sum().item(), ITEMS), 0.5,
        ),
        spec=repr(store),
    )  # fmt: skip


def snapkv(run: Run) -> Evidence:
    store = lw.SnapKV(tokens=KEYS, recent=RECENT, every=run.prompt)
    near = at_most(
        "nats by which its answers lose to those of the full cache",
        mean(run.answers(store)[0] - run.answers()[0]), 0.1,
    )  # fmt: skip
    return made(run, "snapkv", store, KEYS, [near])


def beside_snapkv(run: Run, name: str, store: lw.SnapKV, **more: Method) -> Evidence:
    """Budgets that are not equal, held against SnapKV's, which are."""
    equal = lw.SnapKV(tokens=FEW, recent=RECENT, every=run.prompt, kernel=store.kernel)
    below = at_most(
        f"with {FEW} of {run.prompt} keys its answers lose less than SnapKV's, nats",
        mean(run.answers(store)[0] - run.answers(equal)[0]), 0.0, against="SnapKV",
    )  # fmt: skip
    return made(run, name, store, FEW, [below], SnapKV=equal, **more)


def pyramidkv(run: Run) -> Evidence:
    store = lw.PyramidKV(tokens=FEW, recent=RECENT, every=run.prompt)
    gentle = replace(store, slope=2.0)
    return beside_snapkv(run, "pyramidkv", store, **{"PyramidKV, slope 2": gentle})


def adakv(run: Run) -> Evidence:
    store = lw.AdaKV(tokens=FEW, recent=RECENT, every=run.prompt)
    return beside_snapkv(run, "adakv", store)


def prefixkv(run: Run) -> Evidence:
    searched_on, texts = run.pieces()
    found = [lw.prefix_budgets(run.model, row[None, :PROMPT], tokens=LEFT) for row in searched_on]
    budgets = tuple(round(sum(one) / SEARCHED) for one in zip(*found, strict=True))
    equal = (LEFT,) * len(budgets)

    def smallest() -> list[float]:
        """For every text the smallest share of any layer, equal budgets and then searched ones."""
        rows = []
        for text in texts:
            curves = attention_curves(run.model, text[None, :PROMPT])
            for chosen in (equal, budgets):
                kept = [curve[n - 1].item() for curve, n in zip(curves, chosen, strict=True)]
                rows.append(min(kept))
        return rows

    kept = run.kept(f"kept {equal} {budgets}", smallest).view(-1, 2)
    stores = [lw.PrefixKV(one, every=PROMPT) for one in (equal, budgets)]
    full, even, uneven = run.loss_behind(), *(run.loss_behind(store) for store in stores)
    return evidence.of(
        run.claim("prefixkv"),
        model=run.about,
        items={"texts": TEXTS},
        numbers={
            "budgets": list(budgets),
            "smallest share kept": {"equal": kept[:, 0].mean().item(),
                                    "searched": kept[:, 1].mean().item()},
            "nats a token behind the prompt": {
                "full": full.mean().item(), "equal": even.mean().item(),
                "searched": uneven.mean().item(),
            },
        },
        findings=[
            at_least(
                "smallest share of any layer's attention that is kept, above equal budgets'",
                mean(kept[:, 1] - kept[:, 0]), 0.0, against="equal budgets",
            ),
            at_most(
                f"nats a token behind {PROMPT} tokens of which {LEFT} are kept, above equal "
                "budgets'",
                mean(uneven - even), 0.0, against="equal budgets",
            ),
        ],
        control="equal budgets of as many keys",
        premise=at_least("equal budgets lose, nats a token", mean(even - full), 0.05),
    )  # fmt: skip


CLAIMS = {"snapkv": snapkv, "pyramidkv": pyramidkv, "adakv": adakv, "prefixkv": prefixkv}


def main() -> None:
    """Measure, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=CLAIMS, nargs="+", default=[*CLAIMS])
    parser.add_argument("--evidence", type=Path, default=Path("evidence"))
    parser.add_argument("--model", choices=("demo", "smollm2"), default="demo")
    parser.add_argument("--runs", type=Path, default=Path("runs/compressed"))
    args = parser.parse_args()
    run = Run(args.runs, args.model)
    for name in args.only:
        found = CLAIMS[name](run)
        evidence.write(args.evidence, found)
        Console(stderr=True).print(found.name, found.verdict, found.reason)


if __name__ == "__main__":
    main()
