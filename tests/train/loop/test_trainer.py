"""From a recipe to a checkpoint: what goes in, what comes out, and what is refused."""

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lengthwise.testing.models import WINDOW, tiny_model, tiny_tokenizer
from lengthwise.train.loop import Result, fits, make_evaluation, read_result, train
from lengthwise.train.loop.adapters import BASE_FILE, dequantise, quantise
from lengthwise.train.loop.checkpoint import checkpoints
from lengthwise.train.loop.frequencies import read_methods, stretch
from lengthwise.train.loop.metrics import read_metrics
from lengthwise.train.loop.subject import read_facts
from lengthwise.train.recipe import Recipe

Make = Callable[..., Recipe]
IDS = torch.arange(3, 103)[None]


def quiet(words: str) -> None:
    """For what a run says."""


def go(recipe: Recipe, folder: Path, **kw: Any) -> Result:
    return train(recipe, folder, device="cpu", say=kw.pop("say", quiet), **kw)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Stop(Exception):
    """Stands in for whatever ends a process."""


def stop_after(steps: int) -> Callable[[int, int, float], None]:
    def progress(done: int, total: int, loss: float) -> None:
        if done == steps:
            raise Stop

    return progress


def test_a_run_learns_and_its_checkpoint_is_plain(recipe: Make, tmp_path: Path) -> None:
    result = go(recipe(steps=12, passkeys=0), tmp_path / "run")
    assert (result.steps, result.tokens) == (12, 12 * 512)
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.2
    assert set(result.before["loss"]) == {"64", "128"} == set(result.after["loss"])
    assert "without lengthwise" in result.note
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert model.config.rope_parameters == {
        "rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0,
    }  # fmt: skip
    assert model.config.max_position_embeddings == 128
    assert read_result(tmp_path / "run") == result


def test_a_run_that_was_stopped_ends_with_the_same_bits(recipe: Make, tmp_path: Path) -> None:
    ours = recipe(steps=7, evaluate_every=3, weight_decay=0.1, schedule="cosine")
    go(ours, tmp_path / "whole")
    for steps in (1, 3, 5):  # the last two come back from the checkpoints after 2 and 4
        with pytest.raises(Stop):
            go(ours, tmp_path / "parts", progress=stop_after(steps))
    result = go(ours, tmp_path / "parts")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    kept = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    for lines in kept:
        for line in lines:
            line.pop("seconds", None)
    assert kept[0] == kept[1]
    assert result.after == read_result(tmp_path / "whole").after


def test_ctrl_c_keeps_every_step(recipe: Make, tmp_path: Path) -> None:
    def interrupt(done: int, total: int, loss: float) -> None:
        if done == 3:
            raise KeyboardInterrupt

    ours = recipe(save_every=100)
    with pytest.raises(KeyboardInterrupt, match="3 of 6 steps are kept"):
        go(ours, tmp_path / "run", progress=interrupt)
    assert checkpoints(tmp_path / "run" / "checkpoints")[0].name == "step-00000003"
    go(ours, tmp_path / "run")
    go(ours, tmp_path / "whole")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_a_damaged_checkpoint_costs_steps_and_no_bits(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        go(recipe(), tmp_path / "run", progress=stop_after(5))
    newest = checkpoints(tmp_path / "run" / "checkpoints")[0]
    (newest / "state.pt").write_bytes(b"not what was written")
    said: list[str] = []
    go(recipe(), tmp_path / "run", say=said.append)
    assert "step-00000004 is damaged" in said[0] and said[1] == "Going on after 2 of 6 steps."
    go(recipe(), tmp_path / "whole")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_accumulation_changes_nothing(recipe: Make, tmp_path: Path) -> None:
    """Micro-batches of 1 and of 4 rows take the same steps, up to the order of sums."""
    ours = recipe(steps=2, dtype="float32", learning_rate=1e-2, optimizer="sgd")
    go(replace(ours, rows=1), tmp_path / "one")
    go(replace(ours, rows=4), tmp_path / "four")
    one, four = weights(tmp_path / "one"), weights(tmp_path / "four")
    for name in one:
        torch.testing.assert_close(one[name], four[name], atol=1e-6, rtol=1e-5)


def test_memory_methods_change_nothing(recipe: Make, tmp_path: Path) -> None:
    ours = recipe(steps=2, learning_rate=1e-2, optimizer="sgd")
    go(ours, tmp_path / "plain")
    go(replace(ours, memory="streambp:chunk=64+tiledloss:tokens=32"), tmp_path / "fit")
    plain, fitted = weights(tmp_path / "plain"), weights(tmp_path / "fit")
    for name in plain:
        torch.testing.assert_close(plain[name], fitted[name], atol=1e-6, rtol=1e-5)


def lora(recipe: Make, **changes: Any) -> Recipe:
    return recipe(tune="lora", rank=2, also=("embeddings", "norms"), **changes)


@pytest.mark.parametrize("tied", [False, True])
def test_adapters_merge_to_the_same_logits(
    recipe: Make, base: Path, tmp_path: Path, tied: bool
) -> None:
    ours = lora(recipe, learning_rate=1e-2, dropout=0.1)
    if tied:
        tiny_model("llama", tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
        tiny_tokenizer().save_pretrained(tmp_path / "tied")
        ours = replace(ours, base=str(tmp_path / "tied"))
    go(ours, tmp_path / "run")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    scaled = AutoModelForCausalLM.from_pretrained(
        ours.base, rope_parameters=merged.config.rope_parameters
    )
    before = logits(scaled)
    with_adapter = PeftModel.from_pretrained(scaled, tmp_path / "run" / "adapter")
    assert (logits(with_adapter) - before).abs().max() > 0.05
    torch.testing.assert_close(logits(with_adapter), logits(merged), atol=1e-4, rtol=1e-4)
    kept = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert any("norm" in name for name in kept) and any("embed" in name for name in kept)


def test_adapters_resume_with_their_dropout(recipe: Make, tmp_path: Path) -> None:
    ours = lora(recipe, dropout=0.3)
    go(ours, tmp_path / "whole")
    with pytest.raises(Stop):
        go(ours, tmp_path / "parts", progress=stop_after(3))
    torch.rand(7)  # what else a process draws
    go(ours, tmp_path / "parts")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_an_adapter_goes_on_and_another_models_is_refused(
    recipe: Make, base: Path, tmp_path: Path
) -> None:
    go(lora(recipe, steps=2), tmp_path / "first")
    adapter = tmp_path / "first" / "adapter"
    again = lora(recipe, steps=2, adapter=str(adapter), learning_rate=1e-9)
    assert go(again, tmp_path / "again").before == read_result(tmp_path / "first").after
    other = tmp_path / "other"
    tiny_model("llama", seed=1).save_pretrained(other)
    tiny_tokenizer().save_pretrained(other)
    with pytest.raises(ValueError, match="is for other weights"):
        go(replace(again, base=str(other)), tmp_path / "wrong")
    (adapter / BASE_FILE).unlink()  # as peft alone writes it
    with pytest.raises(ValueError, match=r"is for .*llama and not for"):
        go(replace(again, base=str(other)), tmp_path / "wrong")
    wide = tmp_path / "wide" / base.name  # of the same name
    tiny_model("llama", hidden_size=96).save_pretrained(wide)
    tiny_tokenizer().save_pretrained(wide)
    with pytest.raises(ValueError, match=r"is for another model: .* is 48 wide"):
        go(replace(again, base=str(wide)), tmp_path / "wrong")
    with pytest.raises(ValueError, match="there is no adapter in"):
        go(replace(again, adapter=str(base)), tmp_path / "wrong")
    for change, words in (
        ({"rank": again.rank + 3}, rf"rank is {again.rank + 3} in the recipe and {again.rank} in"),
        ({"dropout": 0.25}, r"dropout is 0.25 in the recipe and 0.0 in the adapter"),
        ({"adapt": ("k_proj",)}, r"adapt is \('k_proj',\) in the recipe and \("),
    ):
        with pytest.raises(ValueError, match=words):
            go(replace(again, **change), tmp_path / "wrong")


def test_what_a_base_must_be(recipe: Make, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="target must be at least the base's window of 64 tokens"):
        go(recipe(target=32), tmp_path / "run")
    scaled = tmp_path / "scaled"
    shutil.copytree(base, scaled)
    config = json.loads((scaled / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    (scaled / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is scaled already, by rope_type 'linear'"):
        go(recipe(base=str(scaled)), tmp_path / "run")
    result = go(recipe(base=str(scaled), scaled_base=True, methods="", steps=1), tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(result.folder / "model")
    assert model.config.rope_parameters["factor"] == 2.0
    assert model.config.max_position_embeddings == 128
    with pytest.raises(ValueError, match=r"methods are scalings, .* SelfExtend is none"):
        go(recipe(methods="selfextend"), tmp_path / "other")
    with pytest.raises(ValueError, match="does not say what window it had before"):
        go(recipe(base=str(scaled), scaled_base=True), tmp_path / "other")


def test_methods_replace_the_scaling_of_a_base(recipe: Make) -> None:
    carried = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 10_000.0}
    carried["original_max_position_embeddings"] = WINDOW // 2
    ours = recipe(scaled_base=True, target=4 * WINDOW, methods="yarn:factor={factor}")
    model, plain = tiny_model("llama", rope_parameters=carried), tiny_model("llama")
    plain.config.max_position_embeddings = WINDOW // 2
    for one in (model, plain):
        facts = read_facts(one, ours)
        assert (facts.window, facts.numbers["factor"]) == (WINDOW // 2, 8.0)
        own = stretch(one, read_methods(one, ours, facts))
        assert own is not None and one.config.max_position_embeddings == 4 * WINDOW
    ids = torch.randint(3, 300, (1, 150), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, plain(ids).logits)


def test_a_loss_that_is_no_number_stops_and_names_its_rows(
    recipe: Make, base: Path, data: Path, tmp_path: Path
) -> None:
    """One token's embedding is NaN; rows with it come in the second step."""
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    tensors = load_file(broken / "model.safetensors")
    ours = recipe(base=str(broken), steps=4, step_tokens=128, rows=1, save_every=1)
    go(replace(ours, steps=1), tmp_path / "probe")
    first = checkpoints(tmp_path / "probe" / "checkpoints")
    assert first
    from lengthwise.train.loop.rows import Plan, open_source

    source = open_source(ours, 128, 128, 2, tmp_path / "rows", None)
    plan = Plan(ours, source.usable, 128, 64, 128)
    good, bad = (set(source.rows[plan.step(n).rows[0]]["input_ids"]) for n in (0, 1))
    token = min(bad - good)
    tensors["model.embed_tokens.weight"][token] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError) as found:
        go(ours, tmp_path / "run")
    message = str(found.value)
    assert "step 2: the loss is nan on rows" in message
    assert f"rows {plan.step(1).rows[0]} of {data}" in message
    kept = checkpoints(tmp_path / "run" / "checkpoints")[0]
    assert kept.name == "step-00000001"
    state = torch.load(kept / "state.pt", weights_only=True)["weights"]
    assert all(w.isfinite().all() for n, w in state.items() if "embed" not in n)


def test_a_step_that_does_not_fit_is_refused_with_a_length_that_does(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fits, "give_blocks_back", lambda: True)
    with pytest.raises(
        ValueError, match=r"a step of 2 x 128 tokens needs .*: length=\d+ would"
    ) as e:
        go(recipe(), tmp_path / "run", room=lambda device: 3_000_000)
    length = int(str(e.value).split("length=")[1].split()[0])
    said: list[str] = []
    shorter, heard = recipe(length=length, steps=1), {"say": said.append}
    go(shorter, tmp_path / "run", room=lambda device: 3_000_000, **heard)
    assert any("freed blocks go back" in words for words in said)
    said.clear()
    go(shorter, tmp_path / "roomy", room=lambda device: 30_000_000, **heard)
    assert not any("freed blocks" in words for words in said)
    with pytest.raises(ValueError, match="not even one token would fit"):
        go(recipe(), tmp_path / "other", room=lambda device: 1000)


@pytest.mark.skipif(sys.platform != "linux", reason="other allocators cannot be told")
def test_freed_blocks_go_back_to_the_system() -> None:
    kept = [int(run_alone(HOLES, word)) for word in ("keep", "back")]
    assert kept[0] < 16 < 100 < kept[1]  # MB given back of the 128 that were freed


HOLES = """
import sys, torch
from lengthwise.train.loop.fits import give_blocks_back
torch.ones(1 << 22)  # 16 MB: glibc takes smaller blocks from its heap from now on
if sys.argv[1] == "back":
    assert give_blocks_back()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
blocks = [torch.ones(1 << 19) for _ in range(128)]
before = resident()
del blocks[::2]
print((before - resident()) // 1_000_000)
"""


def run_alone(code: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_directories_that_hold_something(recipe: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(recipe(steps=1), run)
    with pytest.raises(ValueError, match="holds a finished run"):
        go(recipe(steps=1), run)
    with pytest.raises(Stop):
        go(recipe(), run, force=True, progress=stop_after(3))
    with pytest.raises(ValueError, match=r"holds a run with learning_rate=0.001, now 0.002"):
        go(recipe(learning_rate=2e-3), run)
    go(recipe(save_every=1), run)  # how often it is kept may change
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"has thesis.txt and is no run's"):
        go(recipe(), other, force=True)
    with pytest.raises(ValueError, match="is a file"):
        go(recipe(), other / "thesis.txt")


def test_what_a_kill_left_in_the_middle_of_writing_is_swept(recipe: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        go(recipe(), run, progress=stop_after(5))
    for name in (".model.12.new", ".model.12.old", ".adapter.12.new"):
        (run / name).mkdir()
    (run / "metrics.jsonl.12.tmp").write_text("half")
    go(recipe(), run)
    assert {path.name for path in run.iterdir()} == {
        "run.json", "metrics.jsonl", "result.json", "checkpoints", "model",
    }  # fmt: skip


def test_a_disk_that_fills_up_costs_no_bits(recipe: Make, tmp_path: Path) -> None:
    """Files cannot grow beyond 20 KB for a while: the checkpoint after 4 steps does not fit."""
    with pytest.raises(Stop):
        go(recipe(), tmp_path / "run", progress=stop_after(3))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="step-00000004"):
            go(recipe(), tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = checkpoints(tmp_path / "run" / "checkpoints")
    assert [path.name for path in kept] == ["step-00000002"]
    go(recipe(), tmp_path / "run")
    go(recipe(), tmp_path / "whole")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_data_that_changed_is_refused(recipe: Make, data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    ours = recipe(data=str(copy))
    with pytest.raises(Stop):
        go(ours, tmp_path / "run", progress=stop_after(3))
    shutil.rmtree(copy)
    Dataset.from_list([{"input_ids": [5] * 128}] * 30).save_to_disk(str(copy))
    with pytest.raises(ValueError, match="the data changed since the run began"):
        go(ours, tmp_path / "run")


def test_another_number_of_processes_goes_on_and_says_so(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        go(recipe(), tmp_path / "run", progress=stop_after(3))
    newest = checkpoints(tmp_path / "run" / "checkpoints")[0]
    state = torch.load(newest / "state.pt", weights_only=True)
    shutil.rmtree(newest)
    from lengthwise.train.loop.checkpoint import save_checkpoint

    save_checkpoint(newest.parent, 2, {**state, "processes": 4})
    said: list[str] = []
    go(recipe(), tmp_path / "run", say=said.append)
    assert any("was on 4 processes and is on 1 now" in words for words in said)


CASES: dict[str, dict[str, Any]] = {
    "yarn": {"methods": "yarn:factor={factor}"},
    "abf": {"methods": "abf:base={rope_base}"},
    "pose": {"transform": "pose:window={window},target={target}"},
    "cream": {"transform": "cream:window={window},target={target}"},
    "e2llm": {"transform": "e2llm:window={window},max_scale={scales}"},
    "longrecipe": {"transform": "longrecipe:window={window},target={target},ends=(5, 6, 7)"},
    "segmented": {"transform": "segmentedtraining:window={window},target={target}"},
    "skipalign": {"transform": "skipalign:target={target}"},
    "anchor": {"transform": "anchorattention:anchor={bos}", "documents": "apart"},
    "shifted": {"layout": "shiftedsparse:group=32"},
    "bigbird": {"layout": "bigbird:block=16"},
    "mixed": {"methods": "ntk:factor={factor}", "mixed_window": True, "short_share": 0.5},
    "apart": {"documents": "apart", "weigh": "documents"},
    "not plain": {"methods": "logtemperature"},
    "not plain, shifted": {"methods": "logtemperature", "layout": "shiftedsparse:group=32"},
    "checkpointing": {"checkpointing": True},
    "memory": {"memory": "streambp:chunk=64+tiledloss:tokens=64"},
    "rescaled": {"objective": "temporalrescaling:power=0.5"},
    "momentum, linear": {"optimizer": "momentum", "schedule": "linear"},
    "bf16": {"precision": "bf16"},
}


# What these hold beside weights or draw is as in the others.
ALIKE = ("yarn", "cream", "longrecipe", "segmented", "skipalign", "apart", "rescaled", "not plain")


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_recipe_runs_and_resumes(name: str, recipe: Make, tmp_path: Path) -> None:
    ours = recipe(steps=2, save_every=1, evaluate_lengths=(64,), **CASES[name])
    result = go(ours, tmp_path / "whole")
    before = load_file(Path(ours.base) / "model.safetensors")
    after = weights(result.folder)
    query = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(before[query].float(), after[query].float())
    if name in ALIKE:
        return
    with pytest.raises(Stop):
        go(ours, tmp_path / "run", progress=stop_after(1))
    go(ours, tmp_path / "run")
    assert same(weights(tmp_path / "run"), after)


def test_a_tracker_of_accelerate_is_told(recipe: Make, tmp_path: Path) -> None:
    from accelerate.tracking import GeneralTracker

    class Notes(GeneralTracker):
        name, requires_logging_directory, main_process_only = "notes", False, True
        tracker = None

        def __init__(self) -> None:
            super().__init__()
            self.lines: list[tuple[int | None, dict[str, float]]] = []
            self.config: dict[str, Any] = {}

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            self.config = values

        def log(self, values: dict[str, float], step: int | None = None) -> None:
            self.lines.append((step, values))

    notes = Notes()
    go(recipe(steps=2), tmp_path / "run", tracker=notes)
    assert notes.config["steps"] == 2
    assert [step for step, values in notes.lines if "loss" in values] == [1, 2]
    assert any("loss/128" in values for step, values in notes.lines if step == 0)


def test_a_tracker_that_is_not_there_is_refused(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"accelerate: .*nonesuch"):
        go(recipe(), tmp_path / "run", tracker="nonesuch")
    with pytest.raises(ValueError, match="tracker 'clearml' is not installed"):
        go(recipe(), tmp_path / "run", tracker="clearml")


def test_four_bits_without_bitsandbytes_are_refused(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match="four_bit needs bitsandbytes"):
        go(recipe(tune="lora", four_bit=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()  # nothing is left of a run that did not begin


@pytest.mark.parametrize("packs", [False, True])
def test_four_bits_come_out_as_what_was_trained(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packs: bool
) -> None:
    """The merged checkpoint has the loss that the model had in 4 bits under its adapter.

    On processors of both kinds: those for which bitsandbytes packs weights anew at the first
    evaluation, after which a layer would let no gradient through to those below, and the others.
    """
    modules = pytest.importorskip("bitsandbytes.nn.modules", reason="no bitsandbytes")
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: packs)
    wide = tmp_path / "wide"
    changes = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4}
    tiny_model("llama", **changes, head_dim=16).save_pretrained(wide)
    tiny_tokenizer().save_pretrained(wide)
    ours = recipe(base=str(wide), tune="lora", four_bit=True, learning_rate=1e-2, steps=3)
    result = go(ours, tmp_path / "run")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    facts = read_facts(AutoModelForCausalLM.from_pretrained(wide), ours)
    assert make_evaluation(ours, tiny_tokenizer(), facts)(plain) == result.after
    assert result.after["loss"] != result.before["loss"]
    learned = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert all(x.any() for x in learned.values())  # lora_B begins at zero


@pytest.mark.parametrize("avx512", [False, True])
def test_rows_that_four_bits_do_not_give_back_are_refused(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, avx512: bool
) -> None:
    """On either kind of processor, by name and before anything is trained."""
    functional = pytest.importorskip("bitsandbytes.functional", reason="no bitsandbytes")

    def read(small: torch.Tensor, state: Any) -> torch.Tensor:
        rows, width = state.shape
        block = torch.arange(rows * width).view(rows, width) // state.blocksize
        if avx512 and width % 16 == 0:  # as if each row began with a block of its own
            row, place = torch.arange(rows)[:, None], torch.arange(width)
            block = row * (width // state.blocksize) + place // state.blocksize
        return state.absmax[block]  # of numbers that are alike within a block

    monkeypatch.setattr(functional, "dequantize_4bit", read)
    base = tmp_path / "base"
    tiny_model("llama", hidden_size=96, intermediate_size=64, head_dim=16).save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    if not avx512:
        quantise(AutoModelForCausalLM.from_pretrained(base))
        return
    with pytest.raises(ValueError, match=r"rows of 96 numbers \(model\.layers\.0\.") as info:
        go(recipe(base=str(base), tune="lora", four_bit=True), tmp_path / "run")
    assert "\n" not in str(info.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("width", [64, 72, 80, 96, 192])
def test_what_this_processor_holds_in_four_bits_comes_back(width: int) -> None:
    """Or it is refused: no rows are read wrongly in silence."""
    pytest.importorskip("bitsandbytes", reason="no bitsandbytes")
    changes = {"hidden_size": width, "intermediate_size": 64, "num_attention_heads": 4}
    changes["head_dim"] = 16
    model, plain = tiny_model("llama", **changes), tiny_model("llama", **changes)
    try:
        quantise(model)
    except ValueError as error:
        assert width % 64, error
        return
    dequantise(model)
    for name, weight in plain.named_parameters():
        far = (weight - model.get_parameter(name)).abs().max()
        assert far <= 0.17 * weight.abs().max(), name  # half of NF4's widest gap, and constants'


def test_preferences_of_short_over_long(recipe: Make, tmp_path: Path) -> None:
    """LongPO on pairs that the base itself answered: the margin grows, and a run resumes."""
    from lengthwise.train.loop.pairs import answer_pairs, pair_batches
    from lengthwise.train.memory.preference import token_logps

    base = tiny_model("llama")
    base.generation_config.eos_token_id = None
    rng = torch.Generator().manual_seed(0)
    prompts = [
        (x.tolist(), x[-20:].tolist())
        for x in (torch.randint(3, 300, (90,), generator=rng) for _ in range(6))
    ]
    rows = answer_pairs(base, prompts, 5)
    assert rows and all(row["chosen"] != row["rejected"] for row in rows)
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "pairs"))
    ours = recipe(
        data=str(tmp_path / "pairs"), objective="longpo:beta=0.5", steps=5, step_tokens=512, rows=1,
        learning_rate=2e-3, save_every=1, evaluate_lengths=(64,),
    )  # fmt: skip
    with pytest.raises(Stop):
        go(ours, tmp_path / "run", progress=stop_after(2))
    result = go(ours, tmp_path / "run")
    go(ours, tmp_path / "whole")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))

    def margin(model: Any) -> float:
        batch = next(iter(pair_batches(rows, len(rows), 0)))
        with torch.no_grad():
            sides = [token_logps(model, **batch[f"{x}_long"]).sum() for x in ("chosen", "rejected")]
        return float(sides[0] - sides[1])

    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    tuned = AutoModelForCausalLM.from_pretrained(result.folder / "model")
    before = AutoModelForCausalLM.from_pretrained(ours.base, rope_parameters=scaled)
    assert margin(tuned) > margin(before) + 1
    with pytest.raises(ValueError, match="holds no preferences"):
        go(recipe(objective="longpo"), tmp_path / "other")


def test_what_an_objective_trains_beside_the_model_is_kept(recipe: Make, tmp_path: Path) -> None:
    """Horizon-length prediction has a head of its own, in checkpoints too."""
    rows = Dataset.from_list([{"input_ids": list(range(10, 134))}] * 12)
    rows.save_to_disk(str(tmp_path / "plain"))
    ours = recipe(
        data=str(tmp_path / "plain"), objective="hlp",
        transform="fillinthemiddle:prefix=3,suffix=4,middle=5,end=2", save_every=1, steps=3,
        evaluate_lengths=(64,),
    )  # fmt: skip
    with pytest.raises(Stop):
        go(ours, tmp_path / "run", progress=stop_after(2))
    newest = checkpoints(tmp_path / "run" / "checkpoints")[0]
    kept = torch.load(newest / "state.pt", weights_only=True)["weights"]
    assert kept["1.weight"].shape == (1, 48) and kept["1.weight"].abs().max() > 0
    go(ours, tmp_path / "run")
    go(ours, tmp_path / "whole")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_damaged_files_of_a_run_are_named(recipe: Make, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stop):
        go(recipe(), run, progress=stop_after(3))
    note, metrics = (run / "run.json").read_text(), (run / "metrics.jsonl").read_text()
    for damaged in ("{", "[]", "{}", '{"recipe": 3, "base": "", "rows": ""}'):
        (run / "run.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"run\.json is damaged .*--force"):
            go(recipe(), run)
    (run / "run.json").write_text(note)
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"metrics\.jsonl has lost the evaluation before"):
        go(recipe(), run)
    (run / "metrics.jsonl").write_text('3\n{"step": "x"}\n' + metrics)
    assert go(recipe(), run).steps == recipe().steps
    (run / "result.json").write_text('{"steps": 3}')
    with pytest.raises(ValueError, match=r"result\.json is damaged"):
        read_result(run)
