"""Do recipes of tuning lengthen the bundled model? All of them at equal tokens, one after another.

    python experiments/tuning_evidence.py                  all recipes
    python experiments/tuning_evidence.py --only pi pose   some of them

The bundled model, trained on 512 tokens, is tuned to 2,048 by each recipe of `lengthwise train`, on
files of the Python standard library that it was trained on, with the same number of tokens. It is
measured on held-out files: the loss of the same tokens after 512 to 4,096 tokens of context, and
passkeys. A recipe that is finished is skipped, one that was killed goes on.
"""

import argparse
import json
import random
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from lab_model import Data
from rich.console import Console
from transformers import AutoModelForCausalLM, PreTrainedModel
from tuning_claims import BESIDE, findings, premise

import lengthwise as lw
from lengthwise.cli.inputs import be_quiet
from lengthwise.files import write_text
from lengthwise.hf.weights import fingerprint
from lengthwise.lab import evidence
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import share
from lengthwise.measure.tasks.passkey import NEEDLE, QUESTION, Passkey
from lengthwise.measure.tasks.text import held_out_text, read_text, standard_library_files
from lengthwise.train.data.packers import best_fit
from lengthwise.train.loop import Evaluation, Result, make_evaluation, read_result, train
from lengthwise.train.loop.metrics import read_metrics
from lengthwise.train.loop.pairs import answer_pairs
from lengthwise.train.loop.subject import read_facts
from lengthwise.train.objectives.hyperfitting import greedy_diversity
from lengthwise.train.recipe import Recipe
from lengthwise.train.recipes import RECIPES
from lengthwise.train.tuning import short_kl

WINDOW, TARGET = 512, 2048
LENGTHS = (512, 1024, 2048, 4096)
TOKENS = 100_000  # that each recipe trains on, about
STEP = 4096  # tokens of a step
CORPUS = 2_000_000  # tokens of text that rows are drawn from
SEED = 0

# What a model of four million parameters wants other than one of billions: the same for all, but
# that adapters want a higher rate than whole weights.
SMALL: dict[str, Any] = {
    "base": "demo", "target": TARGET, "dtype": "float32", "precision": "no", "checkpointing": False,
    "steps": TOKENS // STEP, "step_tokens": STEP, "warmup": 4, "schedule": "cosine", "rows": 2,
    "learning_rate": 5e-4, "save_every": 5, "evaluate_lengths": LENGTHS, "texts": 4,
    "passkeys": 6, "seed": SEED,
}  # fmt: skip
ADAPTERS: dict[str, Any] = {"learning_rate": 2e-3, "rank": 16, "alpha": 32.0}
# 16 texts of 256 tokens, each read about 24 times; the target is the window.
HYPERFIT: dict[str, Any] = {"target": WINDOW, "schedule": "constant", "step_tokens": 2048,
                            "steps": TOKENS // 2048, "rows": 8, "learning_rate": 1e-3}  # fmt: skip
DATA = {"anchor": "packed", "skipalign": "problems", "longpo": "pairs",
        "hyperfit": "small"}  # fmt: skip


def main() -> None:
    """Tune, measure, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"), help="the runs")
    parser.add_argument("--evidence", type=Path, default=Path("evidence"))
    parser.add_argument("--only", nargs="+", choices=[*RECIPES], default=[*RECIPES])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    be_quiet()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    names = list(dict.fromkeys([*(BESIDE[n] for n in args.only if n in BESIDE), *args.only]))
    prepare(out, names, console)
    measure_base(out, console)
    for name in list(names):
        if RECIPES[name].four_bit and find_spec("bitsandbytes") is None:
            console.print(f"{name} is left out: it needs bitsandbytes")
            names.remove(name)
            continue
        run(name, out, console)
    base = json.loads((out / "base.json").read_text(encoding="utf-8"))
    finished = {name: read_result(out / name) for name in names}
    for name in (name for name in args.only if name in names):
        made = judged(name, finished, base, out)
        console.print(f"{evidence.write(args.evidence, made)}: {made.verdict}")


def prepare(out: Path, names: list[str], console: Console) -> None:
    """Rows: of long texts, of short documents packed, of problems with answers, and so on."""
    wanted = {DATA.get(name, "rows") for name in names}
    missing = [name for name in sorted(wanted) if not (out / name / "state.json").is_file()]
    if not missing:
        return
    console.print("reading the standard library …")
    _, tokenizer = lw.load("demo")
    files = standard_library_files(held_out=False)
    random.Random(SEED).shuffle(files)
    long: list[list[int]] = []
    short: list[list[int]] = []
    held = 0
    for path in files:
        ids = tokenizer(read_text(path), verbose=False)["input_ids"]
        (long if len(ids) > 2 * TARGET else short).append(ids)
        held += len(ids) if len(ids) > 2 * TARGET else 0
        if held >= CORPUS:
            break
    for name in missing:
        console.print(f"making {name} …")
        made = MAKERS[name](tokenizer, long, short)
        Dataset.from_list(made).save_to_disk(str(out / name))


def rows_of(tokenizer: Any, long: list[list[int]], short: list[list[int]]) -> list[Any]:
    """Rows of one long text each."""
    rows = [{"input_ids": ids[n : n + TARGET], "seq_lengths": [TARGET]}
            for ids in long for n in range(0, len(ids) - TARGET, TARGET)]  # fmt: skip
    random.Random(SEED).shuffle(rows)
    return rows


def packed(tokenizer: Any, long: list[list[int]], short: list[list[int]]) -> list[Any]:
    """Rows of several short documents."""
    pieces = [ids[n : n + TARGET] for ids in short for n in range(0, len(ids), TARGET)]
    return [{"input_ids": [token for n in chosen for token in pieces[n]],
             "seq_lengths": [len(pieces[n]) for n in chosen]}
            for chosen in best_fit([len(piece) for piece in pieces], TARGET)]  # fmt: skip


def problems(tokenizer: Any, long: list[list[int]], short: list[list[int]]) -> list[Any]:
    """Retrieval problems inside the window, of its own training; labels on answers."""
    data = Data(torch.tensor([token for ids in long for token in ids]), tokenizer, SEED)
    made = []
    for step in range(60):
        ids, answers = data.retrieval(step)
        for row, answer in zip(ids.tolist(), answers.tolist(), strict=True):
            labels = [t if asked else -100 for t, asked in zip(row, answer, strict=True)]
            made.append({"input_ids": row, "labels": labels, "seq_lengths": [len(row)]})
    return made


def small(tokenizer: Any, long: list[list[int]], short: list[list[int]]) -> list[Any]:
    """16 texts of 256 tokens."""
    return [{"input_ids": row["input_ids"][:256]} for row in rows_of(tokenizer, long, short)[:16]]


def preferences(tokenizer: Any, long: list[list[int]], short: list[list[int]]) -> list[Any]:
    """Passkeys in 2,048 tokens and in the few lines around them, as the base model answers them."""
    model, _ = lw.load("demo", dtype=torch.float32)
    model.eval()
    text = tokenizer.decode([token for ids in long[:20] for token in ids], skip_special_tokens=True)
    prompts = []
    items = Passkey(text).build(tokenizer, TARGET, 24, SEED)
    for item in items:
        needle = NEEDLE.format(key=item.answer).strip()
        body = item.prompt.removesuffix(QUESTION)
        at = body.index(needle)
        near = body[max(0, at - 400) : at + len(needle) + 400]
        texts = tokenizer([item.prompt, near + QUESTION], verbose=False)["input_ids"]
        prompts.append((texts[0], texts[1]))
    return answer_pairs(model, prompts, items[0].allowance)


MAKERS = {"rows": rows_of, "packed": packed, "problems": problems, "small": small,
          "pairs": preferences}  # fmt: skip


def sized(name: str, out: Path) -> Recipe:
    """The recipe, sized for the bundled model."""
    recipe = RECIPES[name]
    changes = {**SMALL, "data": str(out / DATA.get(name, "rows"))}
    if recipe.tune == "lora":
        changes |= ADAPTERS
    if name == "hyperfit":
        changes |= HYPERFIT
    if name == "skipalign":  # its rows are short: about 1,385 tokens a step
        changes["steps"] = round(TOKENS // STEP * STEP / 1385)
    if name == "longpo":  # rows of two texts
        changes |= {"rows": 1, "learning_rate": 1e-4}
    return replace(recipe, **changes)


def evaluation(recipe: Recipe) -> tuple[PreTrainedModel, Evaluation, Any]:
    """The base, what it is measured by, and its tokenizer."""
    model, tokenizer = lw.load("demo", dtype=torch.float32)
    model.eval()
    return model, make_evaluation(recipe, tokenizer, read_facts(model, recipe)), tokenizer


def prompts(tokenizer: Any) -> torch.Tensor:
    """Beginnings of held-out text, `[10, 64]`."""
    ids = torch.tensor(tokenizer(held_out_text(), verbose=False)["input_ids"])
    return torch.stack([ids[k * 6000 : k * 6000 + 64] for k in range(10)])


def measure_base(out: Path, console: Console) -> None:
    """The model before any tuning, at all lengths."""
    file = out / "base.json"
    if file.is_file():
        return
    console.print("measuring the base model …")
    model, measured, tokenizer = evaluation(sized("pi", out))
    found = {
        **measured(model),
        "diversity": greedy_diversity(model, prompts(tokenizer), 256),
        "fingerprint": fingerprint(model),
    }
    write_text(file, json.dumps(found, indent=1) + "\n")


def run(name: str, out: Path, console: Console) -> None:
    """One recipe, unless it is finished."""
    folder = out / name
    if (folder / "extra.json").is_file():
        console.print(f"{name} is finished")
        return
    recipe = sized(name, out)

    def progress(done: int, total: int, loss: float) -> None:
        if done % 5 == 0:
            console.print(f"{name}: step {done} of {total}, loss {loss:.3f}")

    if not (folder / "result.json").is_file():
        train(recipe, folder, device="cpu", say=console.print, progress=progress)
    extra: dict[str, Any] = {}
    if name == "longpo":
        base, _, tokenizer = evaluation(recipe)
        model = AutoModelForCausalLM.from_pretrained(
            folder / "model", trust_remote_code=False
        ).eval()
        ids = torch.tensor(tokenizer(held_out_text(), verbose=False)["input_ids"])
        extra["short_kl"] = round(short_kl(model, base, ids[: 8 * WINDOW].view(8, WINDOW)), 4)
    if name == "e2llm":
        extra["loss under scale g at g windows"] = at_scales(recipe, folder)
    if name == "hyperfit":
        model = AutoModelForCausalLM.from_pretrained(
            folder / "model", trust_remote_code=False
        ).eval()
        _, _, tokenizer = evaluation(recipe)
        extra["diversity"] = greedy_diversity(model, prompts(tokenizer), 256)
        losses = [x["loss"] for x in read_metrics(folder / "metrics.jsonl") if "loss" in x]
        extra["training"] = round(sum(losses[-8:]) / 8, 4)
    write_text(folder / "extra.json", json.dumps(extra, indent=1) + "\n")
    console.print(f"{name}: {read_result(folder).after}")


def at_scales(recipe: Recipe, folder: Path) -> dict[str, float]:
    """The one checkpoint of E2-LLM, read under the scale that each length asks for."""
    _, measured, _ = evaluation(recipe)
    found = {}
    for scale in (1, 2, 4, 8):
        parameters = {"rope_type": "linear", "factor": float(scale), "rope_theta": 10_000.0}
        model = AutoModelForCausalLM.from_pretrained(
            folder / "model", rope_parameters=parameters, trust_remote_code=False
        )
        found[str(scale)] = measured.loss(model.eval(), scale * WINDOW)
    return found


def judged(
    name: str, finished: dict[str, Result], base: dict[str, Any], out: Path
) -> evidence.Evidence:
    """The evidence of one recipe."""
    extra = json.loads((out / name / "extra.json").read_text(encoding="utf-8"))
    result = replace(finished[name], before=counted(finished[name].before),
                     after={**counted(finished[name].after), **extra})  # fmt: skip
    settings = sized(name, out).settings()
    tuned = {key: settings[key] for key in settings if key in SMALL | ADAPTERS}
    return evidence.of(
        claims()[f"tuning/{name}"],
        model={"name": "demo", "fingerprint": base["fingerprint"], "window": WINDOW},
        seeds=(SEED,),
        trained=True,
        items={"texts": SMALL["texts"], "passkeys": SMALL["passkeys"]},
        numbers={
            "base": counted({key: base[key] for key in ("loss", "passkey")}),
            "before": result.before,
            "after": result.after,
        },
        findings=findings(name, result, finished, base),
        control="the base, untuned",
        premise=premise(name, base),
        settings={key: value for key, value in tuned.items() if key != "data"},
        tokens=result.tokens,
        seconds=result.seconds,
    )


def counted(found: dict[str, Any]) -> dict[str, Any]:
    """An evaluation with its passkeys as counts."""
    items = SMALL["passkeys"]
    counts = {n: share(round(part * items), items) for n, part in found["passkey"].items()}
    return {**{k: v for k, v in found.items() if k != "passkey"}, "passkeys_found": counts}


if __name__ == "__main__":
    main()
