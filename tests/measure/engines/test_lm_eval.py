"""lm-evaluation-harness drives our models and asks our tasks."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from tokenizers.processors import TemplateProcessing

import lengthwise as lw
from lengthwise.extend.adapt import is_adapted
from lengthwise.measure.engines.lm_eval import __main__ as command
from lengthwise.measure.engines.lm_eval.model import LengthwiseLM
from lengthwise.measure.engines.lm_eval.tasks import GROUPS, TASKS, write_tasks
from lengthwise.measure.engines.local import LocalReader
from lengthwise.measure.tasks.loss import losses_by_position
from lengthwise.measure.tasks.text import held_out_text
from lengthwise.testing.models import tiny_model, tiny_tokenizer

MODEL = {"pretrained": "demo", "method": "yarn:factor=8", "dtype": "float32", "device": "cpu"}
ITEMS, LENGTHS = 2, [400, 900]


@pytest.fixture(scope="module")
def reader() -> LocalReader:
    model, tokenizer = lw.load("demo", dtype="float32")
    return LocalReader(lw.adapt(model.eval(), lw.YaRN(factor=8)), tokenizer)


@pytest.fixture(scope="module")
def lm() -> LengthwiseLM:
    return LengthwiseLM(**MODEL)


def manager(folder: Path, **metadata: Any) -> TaskManager:
    write_tasks(folder)
    # Without its own thousands of tasks, whose files take seconds to read.
    return TaskManager(include_path=str(folder), include_defaults=False, metadata=metadata)


def request(kind: str, *arguments: Any) -> Instance:
    return Instance(kind, {}, arguments, 0)


def test_frequencies_that_follow_the_length_do_not_go_stale(tmp_path):
    """The harness's own loop goes on from a cache, so the plain model is adapted."""
    tiny_model("phi3").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert is_adapted(LengthwiseLM(str(tmp_path), device="cpu", dtype="float32").model)


def test_a_closed_text_is_no_prompt(tmp_path):
    """The harness encodes contexts and texts by itself: what closes a text goes there too."""
    tokenizer, found = tiny_tokenizer(), []
    tiny_model("llama").save_pretrained(tmp_path)
    for template in ("<s> $A", "<s> $A </s>"):
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
        tokenizer.save_pretrained(tmp_path)
        lm = LengthwiseLM(str(tmp_path), device="cpu", dtype="float32")
        ids, mask = lm.tok_batch_encode(["a pass key", "key</s>"])
        pair = lm._encode_pair("the pass", " key")
        found.append((ids.tolist(), mask.tolist(), pair, lm.tok_encode("</s>", False)))
    assert found[0] == found[1]


def test_scores_are_those_of_our_own_runner(tmp_path, reader):
    tasks = manager(tmp_path, pretrained="demo", max_seq_lengths=LENGTHS, items=ITEMS)
    found = simple_evaluate(
        model="lengthwise", model_args=MODEL, tasks=["lengthwise_passkey"],
        task_manager=tasks, batch_size=2, bootstrap_iters=0,
    )  # fmt: skip
    samples = sorted(found["samples"]["lengthwise_passkey"], key=lambda sample: sample["doc_id"])
    for length, answered in zip(LENGTHS, (samples[:ITEMS], samples[ITEMS:]), strict=True):
        items = TASKS["passkey"].build(reader.tokenizer, length, ITEMS, seed=0)
        assert [sample["arguments"][0][0] for sample in answered] == [i.prompt for i in items]
        replies = [reply.text for reply in reader.answer(items)]
        assert [sample["resps"][0][0] for sample in answered] == replies
        scores = [TASKS["passkey"].score(*pair) for pair in zip(replies, items, strict=True)]
        result = found["results"]["lengthwise_passkey"][f"{length},none"]
        assert result == pytest.approx(sum(scores) / ITEMS)
        assert any(text.strip() for text in replies)


def test_an_answer_may_be_as_long_as_its_item_allows(tmp_path, reader):
    tasks = manager(tmp_path, pretrained="demo", max_seq_lengths=[500], items=2, seed=3)
    task = tasks.load(["lengthwise_passkey"])["tasks"]["lengthwise_passkey"]
    task.build_all_requests()
    expected = TASKS["passkey"].build(reader.tokenizer, 500, 2, seed=3)
    for instance, item in zip(task.instances, expected, strict=True):
        prompt, settings = instance.args
        assert prompt == item.prompt
        assert settings["max_gen_toks"] == item.allowance and settings["until"] == []


def test_the_group_holds_every_task_of_our_full_suite(tmp_path):
    tasks = manager(tmp_path, pretrained="demo", max_seq_lengths=[1100], items=1)
    assert set(tasks.all_subtasks) == {f"lengthwise_{name}" for name in TASKS}
    assert set(tasks.all_groups) == set(GROUPS)
    loaded = tasks.load(["lengthwise_ruler"])
    assert len(loaded["tasks"]) == 13 and len(loaded["groups"]) == 1


def test_the_tokenizer_must_be_known(tmp_path):
    with pytest.raises(ValueError, match="name it with --metadata"):
        manager(tmp_path, max_seq_lengths=[500]).load(["lengthwise_passkey"])


def test_likelihoods_are_our_losses(lm, reader):
    # The harness moves blanks at the end of a context to the start of what follows.
    context = held_out_text()[:3000].rstrip()
    continuation = held_out_text()[len(context) :][:100]
    (scored, greedy), (one, _) = lm.loglikelihood(
        [request("loglikelihood", context, continuation), request("loglikelihood", "a b", " c")]
    )
    both = reader.tokenizer(context + continuation, verbose=False)["input_ids"]
    start = len(reader.tokenizer(context, verbose=False)["input_ids"])
    losses = losses_by_position(reader.model, torch.tensor([both]))[0]
    assert len(both) > 512, "longer than the trained window"
    assert scored == pytest.approx(-losses[start - 1 :].sum().item(), rel=1e-4)
    assert not greedy and one < 0


def test_rolling_likelihood_reads_the_whole_text_at_once(lm, reader):
    text = held_out_text()[:4000]
    (total,) = lm.loglikelihood_rolling([request("loglikelihood_rolling", text)])
    # The harness puts a start token before the text, also where the tokenizer has put one.
    encoded = reader.tokenizer(text, verbose=False)["input_ids"]
    ids = torch.tensor([[reader.tokenizer.bos_token_id, *encoded]])
    assert lm.max_length == 8 * 512 > ids.shape[1] > 512
    losses = losses_by_position(reader.model, ids)[0]
    assert total == pytest.approx(-losses.sum().item(), rel=1e-4)


def test_a_padded_batch_answers_as_its_texts_do_alone(lm):
    settings = {"until": [], "max_gen_toks": 6, "do_sample": False}
    texts = [held_out_text()[:2500], held_out_text()[9000:9300]]
    requests = [request("generate_until", text, settings) for text in texts]
    together = LengthwiseLM(**MODEL, batch_size=2).generate_until(requests)
    assert together == lm.generate_until(requests)
    assert all(text.strip() for text in together) and together[0] != together[1]


def test_the_window_is_the_one_that_the_scaling_claims():
    plain = {**MODEL, "method": "plain"}
    assert LengthwiseLM(**plain).max_length == 512
    assert LengthwiseLM(**plain, max_length=700).max_length == 700


def test_nothing_is_cut_off(lm):
    long = "word " * 5000
    with pytest.raises(ValueError, match="longer than max_length=4,096; give a larger one"):
        lm.generate_until([request("generate_until", long, {"until": [], "max_gen_toks": 8})])
    with pytest.raises(ValueError, match="longer than max_length=4,096"):
        lm.loglikelihood([request("loglikelihood", long, " end")])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 64}, "has no argument 'window'"),
        ({"method": "yarm"}, "unknown method 'yarm'"),
        ({"max_length": 1}, "max_length must be at least 2 tokens, got 1"),
        ({"pretrained": "./nowhere"}, "no checkpoint at"),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError, match=words) as caught:
        LengthwiseLM(**{**MODEL, **options})
    assert "\n" not in str(caught.value)


@pytest.fixture
def call(monkeypatch):
    """Runs our command, without reading thousands of the harness's own tasks."""
    original = TaskManager.__init__

    def quick(self, *arguments, **options):
        original(self, *arguments, **{**options, "include_defaults": False})

    def run(words: list[str]) -> None:
        monkeypatch.setattr(TaskManager, "__init__", quick)
        monkeypatch.setattr(sys, "argv", ["lm_eval", "--model", "lengthwise", *words])
        command.main()

    return run


def test_the_command_knows_our_model_and_our_tasks(call, capsys):
    options = "pretrained=demo,method=yarn:factor=2,dtype=float32"
    metadata = '{"max_seq_lengths": [600], "items": 1}'
    call(["--model_args", options, "--tasks", "lengthwise_passkey", "--metadata", metadata])
    table = capsys.readouterr().out
    assert "lengthwise_passkey" in table and "600" in table


def test_the_command_says_in_one_line_what_is_wrong(call, capsys):
    with pytest.raises(SystemExit) as ended:
        call(["--model_args", "pretrained=./nowhere", "--tasks", "lengthwise_vt"])
    assert ended.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "lengthwise: " in line]
    assert len(said) == 1 and "nowhere" in said[0]


def test_without_the_harness_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", None)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert "lengthwise: this needs the harness: pip install lm-eval" in capsys.readouterr().err


def test_losses_are_finite(lm):
    (total,) = lm.loglikelihood_rolling([request("loglikelihood_rolling", "x = 1\n")])
    assert math.isfinite(total) and total < 0
