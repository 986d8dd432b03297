"""Do recipes of tuning lengthen the bundled model? Each beside the controls of its paper.

    python experiments/tuning_rows.py tuning/pose tuning/abf        some rows
    python experiments/tuning_rows.py tuning/pose --only train      what takes hours, in pieces

A row holds arms against each other: a recipe of `lengthwise train`, sized for a small model, and
the controls of `ARMS`, which are the recipe with one thing changed. Every arm is tuned on the same
number of tokens: at a tenth of them with three learning rates, then with the best by texts that
nothing else reads, three seeds. What is measured is measured text by text and passkey by passkey,
on held-out files. Arms are shared by rows; one that is finished is skipped, and one that was killed
goes on, so all of it can be run in pieces: see runs/tuning.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel
from tuning_claims import CLAIMS, DIFFERENCES
from tuning_data import KINDS, Corpus, keep, marked, read_corpus, write_validation

import lengthwise as lw
from lengthwise.cli.inputs import be_quiet
from lengthwise.files import write_text
from lengthwise.hf.weights import fingerprint
from lengthwise.lab import evidence
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import share
from lengthwise.lab.training import best_of
from lengthwise.measure.engines.greedy import with_answers
from lengthwise.measure.statistics.intervals import Interval, bootstrap_mean
from lengthwise.measure.tasks.loss import losses_by_position
from lengthwise.measure.tasks.passkey import Passkey
from lengthwise.measure.tasks.text import held_out_text
from lengthwise.train.data.weights import weighted_loss
from lengthwise.train.loop import Evaluation, Result, make_evaluation, read_result, train
from lengthwise.train.loop.metrics import read_metrics
from lengthwise.train.loop.parts import build_parts, in_training
from lengthwise.train.loop.rows import Plan, micro_batches, open_source
from lengthwise.train.loop.subject import open_subject, read_facts
from lengthwise.train.objectives.base import model_inputs
from lengthwise.train.objectives.hyperfitting import repetition, type_token_ratio
from lengthwise.train.places import CHECKPOINTS, METRICS, MODEL
from lengthwise.train.recipe import Recipe
from lengthwise.train.recipes import RECIPES
from lengthwise.train.tuning import short_kl

BASE = "base"  # the model as it is; `untuned:ARM` has an arm's frequencies and nothing learned
FULL, ADAPTERS = (2e-4, 6e-4, 2e-3), (6e-4, 2e-3, 6e-3)


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        tokens: That each arm trains on; its rates are found at a tenth.
        step: Tokens of an optimizer step.
        corpus: Tokens of text that rows are drawn from, about.
        rows: Rows of problems; see `tuning_data`.
        texts, passkeys: Of a measurement.
        validation: Characters of the text that rates are chosen by.
    """

    tokens: int = 2_000_000
    step: int = 4096
    corpus: int = 3_000_000
    rows: int = 4000
    seeds: tuple[int, ...] = (0, 1, 2)
    texts: int = 20
    passkeys: int = 20
    validation: int = 400_000
    threads: int = 1


@dataclass(frozen=True)
class Arm:
    """One way to tune: a recipe, what differs from it, and its data.

    Attributes:
        windows: The target, in windows of the base.
        length: Windows of a row; None is the recipe's own.
        share: Of all tokens, those that it trains on; below 1 it takes the rate of `rate_of`.
        by: What rates are chosen by: the loss of `text` or of `answers` at the target, or the loss
            in `training`.
    """

    recipe: str
    data: str = "texts"
    changes: Mapping[str, Any] = field(default_factory=dict)
    windows: int = 4
    length: int | None = None
    rates: tuple[float, ...] = FULL
    share: float = 1.0
    rate_of: str = ""
    by: str = "text"


ANSWERS: dict[str, Any] = {"by": "answers", "data": "problems"}
PAIRS: dict[str, Any] = {"by": "answers", "data": "pairs", "rates": (3e-5, 1e-4, 3e-4)}
SMALL: dict[str, Any] = {"windows": 1, "by": "training", "rates": (3e-4, 1e-3, 3e-3)}
UNIFORM = "cream:window={window},target={target},deviation=1000"
MARKED = "longrecipe:window={window},target={target},ends={ends},drop=1"
ARMS: dict[str, Arm] = {
    "pi": Arm("pi"),
    "direct": Arm("pi", changes={"methods": ""}),  # full length, positions as they are
    "pi_short": Arm("pi", length=1),  # rows of the old window, no skipped positions
    "yarn": Arm("yarn"),
    "yarn_tenth": Arm("yarn", share=0.1, rate_of="yarn"),
    "abf": Arm("abf"),
    "abf_short": Arm("abf", length=1),
    "longlora": Arm("longlora", rates=ADAPTERS),
    "longlora_bare": Arm("longlora", changes={"also": ()}, rates=ADAPTERS),
    "longqlora": Arm("longqlora", rates=ADAPTERS),
    "llama3_qlora": Arm("llama3_qlora", "questions", windows=10, rates=ADAPTERS),
    "pose": Arm("pose"),
    "cream": Arm("cream", windows=8),
    "cream_uniform": Arm("cream", changes={"transform": UNIFORM}, windows=8),
    "e2llm": Arm("e2llm", windows=8),
    "longrecipe": Arm("longrecipe", "marked", changes={"transform": MARKED}),
    "longrecipe_all": Arm("longrecipe", "marked"),
    "skipalign": Arm("skipalign", **ANSWERS),
    "skipalign_plain": Arm(
        "skipalign", changes={"transform": "skipalign:target={target},plain=1"}, **ANSWERS
    ),
    "segmented": Arm("segmented"),
    "anchor": Arm("anchor", "packed"),
    "anchor_none": Arm("anchor", "packed", changes={"transform": ""}),
    "anchor_joined": Arm("anchor", "packed", changes={"transform": "", "documents": "joined"}),
    "longpo": Arm("longpo", **PAIRS),
    "longpo_dpo": Arm("longpo", **{**PAIRS, "data": "plain_pairs"}),
    "longpo_sft": Arm("longpo", changes={"objective": ""}, **{**PAIRS, "data": "chosen"}),
    "longrope2_mixed": Arm("longrope2_mixed"),
    "longrope2_one": Arm("longrope2_mixed", changes={"mixed_window": False}),
    "hyperfit": Arm("hyperfit", "small", **SMALL),
    "hyperfit_fresh": Arm("hyperfit", **SMALL),
}


class Runs:
    """Arms on one base: trained and measured where they are not yet.

    Args:
        base: A name or directory that `lengthwise.load` takes.
        folder: Of this base; another one needs another folder.
    """

    def __init__(self, base: str, folder: Path, size: Size, console: Console) -> None:
        self.base, self.folder, self.size, self.console = base, folder, size, console
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def loaded(self) -> tuple[PreTrainedModel, Any]:
        model, tokenizer = lw.load(self.base, dtype=torch.float32)
        return model.eval(), tokenizer

    @cached_property
    def window(self) -> int:
        return read_facts(self.loaded[0], Recipe(target=1 << 30)).window

    @cached_property
    def corpus(self) -> Corpus:
        self.console.print("reading the standard library …")
        return read_corpus(*self.loaded, self.window, self.size.corpus, self.size.rows)

    @cached_property
    def validation(self) -> Path:
        return write_validation(self.folder, self.size.validation)

    def data(self, kind: str) -> Path:
        """The rows of a kind."""
        place = self.folder / "data" / kind
        if not (place / "state.json").is_file():
            self.console.print(f"making rows: {kind} …")
            if kind == "marked":
                tuned = self.model("abf", self.size.seeds[0])
                keep(marked(self.corpus, tuned), place)
            else:
                keep(KINDS[kind](self.corpus), place)
        return place

    def sized(self, name: str, rate: float, share: float, seed: int) -> Recipe:
        """An arm's recipe for a small base: the rest is the recipe's own."""
        arm, size, window = ARMS[name], self.size, self.window
        recipe = replace(RECIPES[arm.recipe], **arm.changes)
        changes: dict[str, Any] = {
            "base": self.base, "target": arm.windows * window, "data": str(self.data(arm.data)),
            "dtype": "float32", "precision": "bf16", "checkpointing": False,
            "step_tokens": size.step, "steps": max(2, round(size.tokens * share / size.step)),
            "schedule": "cosine", "learning_rate": rate, "seed": seed, "save_every": 25,
            "evaluate_lengths": (arm.windows * window,), "texts": 8, "passkeys": 0,
            "evaluate_text": str(self.validation),
        }  # fmt: skip
        changes["warmup"] = min(20, changes["steps"] // 10)
        if recipe.tune == "lora":
            changes |= {"rank": 16, "alpha": 32.0}
        if recipe.length:  # hyperfitting's rows
            changes["length"] = window // 2
        if arm.length is not None:
            changes["length"] = arm.length * window
        recipe = replace(recipe, **changes)
        parts = build_parts(recipe, read_facts(self.loaded[0], recipe))
        return replace(recipe, rows=max(1, size.step // 2 // parts.trained))

    def trained(self, name: str, rate: float, share: float, seed: int) -> Path:
        """The folder of a finished run."""
        folder = self.folder / name / f"{share:g}-{rate:g}-{seed}"
        if (folder / "result.json").is_file():
            return folder
        recipe, began = self.sized(name, rate, share, seed), time.process_time()

        def progress(done: int, total: int, loss: float) -> None:
            if done % 25 == 0:
                self.console.print(f"{folder}: step {done} of {total}, loss {loss:.3f}")

        train(recipe, folder, device="cpu", say=self.console.print, progress=progress)
        shutil.rmtree(folder / CHECKPOINTS)
        spent = time.process_time() - began
        self.console.print(f"{folder} is finished: {spent:.0f} s of CPU in this part")
        return folder

    def rate(self, name: str) -> tuple[float, dict[str, Any]]:
        """The best of an arm's rates, and what each gave."""
        if source := ARMS[name].rate_of:
            return self.rate(source)
        arm, seed = ARMS[name], self.size.seeds[0]
        found = {rate: self._chosen_by(name, self._tenth(name, rate, seed)) for rate in arm.rates}
        best = best_of(found, float)
        losses = {f"{rate:g}": round(loss, 4) for rate, loss in best.losses.items()}
        return best.rate, {"rate": best.rate, "losses": losses, "at the edge": best.at_edge}

    def _tenth(self, name: str, rate: float, seed: int) -> Path:
        return self.trained(name, rate, 0.1, seed)

    def _chosen_by(self, name: str, folder: Path) -> float:
        """What a rate is judged by, kept."""
        arm, file = ARMS[name], folder / "chosen_by.json"
        if not file.is_file():
            if arm.by == "text":
                loss = float(read_result(folder).after["loss"][str(arm.windows * self.window)])
            elif arm.by == "training":
                loss = training_loss(folder)
            else:
                text = self.validation.read_text(encoding="utf-8")
                loss = float(torch.tensor(self._nats(self._load(folder), text, arm.windows)).mean())
            write_text(file, json.dumps(loss))
        return float(json.loads(file.read_text(encoding="utf-8")))

    def _load(self, folder: Path) -> PreTrainedModel:
        return lw.load(folder / MODEL, dtype=torch.float32)[0].eval()

    def runs(self, name: str) -> list[Path]:
        """An arm's runs, one a seed."""
        rate, _ = self.rate(name)
        return [self.trained(name, rate, ARMS[name].share, seed) for seed in self.size.seeds]

    def model(self, name: str, seed: int) -> PreTrainedModel:
        return self._load(self.runs(name)[self.size.seeds.index(seed)])

    @cached_property
    def evaluation(self) -> Evaluation:
        """Held-out texts; the last half a window of each counts, whatever its length."""
        model, tokenizer = self.loaded
        lengths = tuple(n * self.window for n in (1, 2, 4, 8, 10))
        recipe = Recipe(base=self.base, target=lengths[-1], evaluate_lengths=lengths,
                        texts=self.size.texts, passkeys=self.size.passkeys)  # fmt: skip
        return make_evaluation(recipe, tokenizer, read_facts(model, recipe))

    def _nats(self, model: PreTrainedModel, text: str, windows: int) -> list[float]:
        """Nats a token of the answers to passkeys, one by one."""
        tokenizer = self.loaded[1]
        items = Passkey(text).build(tokenizer, windows * self.window, self.size.passkeys, seed=0)
        return [
            float(losses_by_position(model, ids[None])[0, -n:].mean())
            for ids, n in with_answers(tokenizer, items)
        ]

    def value(self, what: str, name: str, windows: int, seed: int) -> list[float]:
        """One kind of numbers of one run, item by item, kept.

        Args:
            what: `loss` of texts, passkeys `found`, or `nats` of their answers.
            name: An arm, `base`, or `untuned:ARM`.
            windows: Length, in windows.
        """
        if name == BASE:
            folder, load = self.folder / BASE, lambda: self.loaded[0]
        elif name.startswith("untuned:"):
            arm = name.removeprefix("untuned:")
            folder = self.folder / arm / "untuned"
            load = lambda: self._untuned(arm)  # noqa: E731
        else:
            folder = self.runs(name)[self.size.seeds.index(seed)]
            load = lambda: self._load(folder)  # noqa: E731
        return self.kept(folder, f"{what}-{windows}", lambda: self._value(what, load(), windows))

    def kept(self, folder: Path, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, as JSON, in a file that is made once."""
        file = folder / "measured" / f"{name}.json"
        if not file.is_file():
            self.console.print(f"measuring {folder.relative_to(self.folder)}: {name} …")
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(make()) + "\n")
        return json.loads(file.read_text(encoding="utf-8"))

    def _value(self, what: str, model: PreTrainedModel, windows: int) -> list[float]:
        if what == "loss":
            return self.evaluation.losses(model, windows * self.window)
        if what == "found":
            return self.evaluation.scores(model, windows * self.window)
        return self._nats(model, held_out_text(), windows)

    def _untuned(self, arm: str) -> PreTrainedModel:
        recipe = replace(self.sized(arm, ARMS[arm].rates[0], 0.1, 0), tune="full", four_bit=False,
                         also=(), rank=8, alpha=16.0, adapt=())  # fmt: skip
        return open_subject(recipe, torch.device("cpu")).inner.eval()

    # What findings are made of; lengths are windows.

    def values(self, what: str, name: str, windows: int) -> Tensor:
        """Numbers of all seeds, item by item, `[seeds * items]`."""
        each = [self.value(what, name, windows, seed) for seed in self.size.seeds]
        return torch.tensor([one for run in each for one in run]).double()

    def gap(self, what: str, mine: tuple[str, int], other: tuple[str, int]) -> Interval:
        """By how much one is above another, paired over items and seeds."""
        return mean(self.values(what, *mine) - self.values(what, *other))

    def found(self, name: str, windows: int) -> dict[str, float]:
        """The share of passkeys, over all seeds."""
        scores = self.values("found", name, windows)
        return share(float(scores.sum()), len(scores))

    def middle(self, what: str, mine: str, other: str, windows: int) -> Interval:
        """The gap over passkeys in the middle half of the text; they are spread evenly."""
        n = self.size.passkeys
        inside = [n // 4 <= i % n < n - n // 4 for i in range(n * len(self.size.seeds))]
        apart = self.values(what, mine, windows) - self.values(what, other, windows)
        return mean(apart[torch.tensor(inside)])

    def at_scale(self, name: str, windows: int) -> Tensor:
        """Losses at so many windows, under positions divided by as many; of the base or an arm."""

        def one(folder: Path, place: str | Path) -> list[float]:
            def make() -> list[float]:
                config = self.loaded[0].config
                rope = {"rope_type": "linear", "factor": float(windows),
                        "rope_theta": config.rope_parameters["rope_theta"]}  # fmt: skip
                model, _ = lw.load(place, dtype=torch.float32, rope_parameters=rope)
                return self._value("loss", model.eval(), windows)

            found: list[float] = self.kept(folder, f"scale-{windows}", make)
            return found

        if name == BASE:
            each = [one(self.folder / BASE, self.base) for _ in self.size.seeds]
        else:
            each = [one(folder, folder / MODEL) for folder in self.runs(name)]
        return torch.tensor([x for run in each for x in run]).double()

    def short_kl(self, name: str) -> list[float]:
        """Divergence from the base on texts of the window, of every text and seed."""
        model, tokenizer = self.loaded
        ids = torch.tensor(tokenizer(held_out_text(), verbose=False)["input_ids"])
        texts = ids[: self.size.texts * self.window].view(-1, self.window)

        def of(folder: Path) -> list[float]:
            tuned = self._load(folder)
            return [short_kl(tuned, model, text[None]) for text in texts]

        each = [self.kept(folder, "short_kl", partial(of, folder))
                for folder in self.runs(name)]  # fmt: skip
        return [one for run in each for one in run]

    def greedy(self, name: str) -> dict[str, Tensor]:
        """Type-token ratio and repetition of greedy texts after held-out beginnings, by text."""
        tokenizer, window, count = self.loaded[1], self.window, self.size.texts
        ids = torch.tensor(tokenizer(held_out_text(), verbose=False)["input_ids"])
        prompts = torch.stack([ids[n : n + window // 8] for n in
                               torch.linspace(0, len(ids) - window, count).long()])  # fmt: skip
        new = window // 2

        def of(folder: Path | None) -> dict[str, list[float]]:
            model = self.loaded[0] if folder is None else self._load(folder)
            with torch.no_grad():
                made = model.generate(  # type: ignore[operator]
                    input_ids=prompts, attention_mask=torch.ones_like(prompts),
                    max_new_tokens=new, min_new_tokens=new, do_sample=False,
                )[:, prompts.shape[1] :].tolist()  # fmt: skip
            return {"ratio": [*map(type_token_ratio, made)], "again": [*map(repetition, made)]}

        if name == BASE:
            each = [self.kept(self.folder / BASE, "greedy", partial(of, None))]
            each *= len(self.size.seeds)
        else:
            each = [self.kept(folder, "greedy", partial(of, folder))
                    for folder in self.runs(name)]  # fmt: skip
        return {key: torch.tensor([x for run in each for x in run[key]]) for key in each[0]}

    def training(self, name: str) -> list[float]:
        """The loss on its own rows at the end, of every seed."""
        return [training_loss(folder) for folder in self.runs(name)]

    def steps_in_turns(self, *names: str, rounds: int = 12) -> dict[str, dict[str, Any]]:
        """Of some arms: CPU seconds a token, side by side, and bytes that a row keeps."""

        def make() -> dict[str, dict[str, Any]]:
            steps = {name: self._step(name) for name in names}
            seconds: dict[str, list[float]] = {name: [] for name in names}
            kept = {name: step(True) for name, step in steps.items()}
            for _ in range(rounds):
                for name, step in steps.items():
                    began = time.process_time()
                    step(False)
                    seconds[name].append((time.process_time() - began) / self.size.step)
            return {name: {"seconds": seconds[name], "bytes": kept[name]} for name in names}

        found: dict[str, dict[str, Any]] = self.kept(
            self.folder / BASE, f"steps-{'-'.join(names)}", make
        )
        return found

    def _step(self, name: str) -> Callable[[bool], int]:
        """Forward and backward of a step's tokens, or of one row; the bytes kept if asked for."""
        recipe = self.sized(name, ARMS[name].rates[0], 0.1, 0)
        subject = open_subject(recipe, torch.device("cpu"))
        parts = build_parts(recipe, subject.facts)
        source = open_source(recipe, parts.source, parts.trained, parts.least, self.folder, None)
        facts = subject.facts
        plan = Plan(recipe, source.usable, parts.source, facts.window, parts.trained)

        def batches(recipe: Recipe) -> list[dict[str, Tensor]]:
            made, _ = micro_batches(
                source, plan.step(0), recipe, parts.transform, facts.target / facts.window,
                int(subject.inner.config.vocab_size),
            )  # fmt: skip
            return made

        row, made = batches(replace(recipe, rows=1))[:1], batches(recipe)
        total = torch.tensor(float(self.size.step))

        def step(counted: bool) -> int:
            kept: dict[int, int] = {}

            def note(x: Tensor) -> Tensor:
                kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
                return x

            for one in row if counted else made:
                hooks = torch.autograd.graph.saved_tensors_hooks(note if counted else lambda x: x,
                                                                 lambda x: x)  # fmt: skip
                with in_training(subject.model, subject, parts), hooks, torch.autocast(
                    "cpu", torch.bfloat16
                ):  # fmt: skip
                    inputs = {"input_ids": one["input_ids"], **model_inputs(one)}
                    logits = subject.model(**inputs, use_cache=False).logits
                    loss = weighted_loss(logits, one["labels"], one["loss_weights"], total)
                loss.backward()
            subject.model.zero_grad()
            return sum(kept.values())

        return step

    def numbers(self, names: Sequence[str], main: str) -> dict[str, Any]:
        """For the file and docs/tuning.md: means by length, and by seed."""
        arm = ARMS[main]
        lengths = sorted({1, 2, 4, 8, arm.windows})

        def shown(name: str, lengths: Sequence[int] = lengths) -> dict[str, Any]:
            at = {str(n * self.window): n for n in lengths}
            return {
                "loss": {k: round(float(self.values("loss", name, n).mean()), 4)
                         for k, n in at.items()},
                "passkeys_found": {k: self.found(name, n) for k, n in at.items()
                                   if n in (1, arm.windows, 4)},
            }  # fmt: skip

        by_seed = {
            name: [round(float(torch.tensor(self.value("loss", name, arm.windows, seed)).mean()), 4)
                   for seed in self.size.seeds]
            for name in names
        }  # fmt: skip
        return {
            "base": shown(BASE), "before": shown(f"untuned:{main}"), "after": shown(main),
            **{name: shown(name, (1, arm.windows)) for name in names if name != main},
            f"loss at {arm.windows * self.window:,} by seed": by_seed,
            "rates": {name: self.rate(name)[1] for name in names},
        }  # fmt: skip


def mean(values: Tensor) -> Interval:
    """A mean with its interval."""
    return bootstrap_mean(values.double(), torch.Generator().manual_seed(0))


def training_loss(folder: Path) -> float:
    """The mean of the last eight steps."""
    losses = [line["loss"] for line in read_metrics(folder / METRICS) if "loss" in line]
    return round(sum(losses[-8:]) / len(losses[-8:]), 4)


def row(name: str, runs: Runs) -> evidence.Evidence:
    """Tune, measure, judge."""
    main = name.split("/")[1]
    judged = CLAIMS[main]
    results: dict[str, list[Result]] = {
        arm: [read_result(folder) for folder in runs.runs(arm)] for arm in judged.arms
    }
    model, size = runs.loaded[0], runs.size
    claim = replace(claims()[name], untested="", differences=DIFFERENCES[main])
    return evidence.of(
        claim,
        model={"name": runs.base, "fingerprint": fingerprint(model), "window": runs.window},
        seeds=size.seeds,
        trained=True,
        items={"texts": size.texts * len(size.seeds), "passkeys": size.passkeys * len(size.seeds)},
        numbers=runs.numbers(judged.arms, main),
        findings=judged.findings(runs),
        control=judged.control,
        premise=judged.premise(runs),
        settings={
            key: value for key, value in
            runs.sized(main, runs.rate(main)[0], 1.0, size.seeds[0]).settings().items()
            if key in ("step_tokens", "steps", "schedule", "precision", "rows", "target",
                       "transform", "methods", "learning_rate", "warmup", "rank", "alpha")
        },
        tokens=results[main][0].tokens,
        seconds=results[main][0].seconds,
        seconds_of_all_arms=round(sum(r.seconds for each in results.values() for r in each)),
    )  # fmt: skip


def main() -> None:
    """Some rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join(CLAIMS))
    parser.add_argument("--base", default="demo", help="what is tuned")
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"), help="the runs")
    parser.add_argument("--evidence", type=Path, default=Path("evidence"))
    parser.add_argument("--only", choices=("rates", "train"), help="stop before the rest")
    args = parser.parse_args()
    if unknown := {name.split("/")[-1] for name in args.names} - {*CLAIMS}:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(CLAIMS)}")
    torch.set_num_threads(Size.threads)
    be_quiet()
    console = Console(stderr=True)
    mark = fingerprint(lw.load(args.base, dtype=torch.float32)[0])
    runs = Runs(args.base, args.out / mark, Size(), console)
    for name in args.names:
        short = name.split("/")[-1]
        for arm in CLAIMS[short].arms if args.only else ():
            runs.rate(arm) if args.only == "rates" else runs.runs(arm)
        if args.only:
            continue
        made = row(f"tuning/{short}", runs)
        console.print(name, made.verdict, made.reason)
        for one in [*filter(None, [made.premise]), *made.findings]:
            console.print(f"  {one}")
        console.print(str(evidence.write(args.evidence, made)))


if __name__ == "__main__":
    main()
