"""What trains the next bundled model: its texts, its problems, its arithmetic, its phases."""

import argparse
import json
import random
import re
import sys
from pathlib import Path

import pytest
import torch

import lengthwise as lw
from lengthwise.lab.muon import Muon
from lengthwise.measure.tasks import InContextLanguage, Passkey

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
WORDS = "the cat sat on a mat and saw one dog; def run(x): return x + 12 # said the king . "


@pytest.fixture(scope="module")
def lab():
    """The scripts, which import each other by name."""
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        import lab_corpus
        import lab_fast
        import lab_model_card
        import lab_model_next
        import lab_problems

        yield argparse.Namespace(
            card=lab_model_card, corpus=lab_corpus, fast=lab_fast, model=lab_model_next,
            problems=lab_problems,
        )  # fmt: skip
    finally:
        sys.path.remove(str(EXPERIMENTS))


@pytest.fixture(scope="module")
def corpus(lab, tmp_path_factory):
    """Small documents in the place of the real ones."""
    folder, rng = tmp_path_factory.mktemp("corpus"), random.Random(0)
    for name in lab.corpus.KINDS:
        texts = ["\n".join(" ".join(rng.choices(WORDS.split(), k=12)) for _ in range(40))] * 3
        (folder / f"{name}.json").write_text(json.dumps({"seen": texts, "held out": texts}))
    return folder


@pytest.fixture
def small(lab, monkeypatch):
    """A model and steps of a thousandth of the size."""
    config = lab.model.configuration()
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 64, 64, 2
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 2, 1, 32
    monkeypatch.setattr(lab.model, "configuration", lambda: config)
    stages = ((0, 256, (64, 128), (0.3, 0.4, 0.2)), (2, 512, (128, 256), (0.0, 0.1, 0.1)))
    monkeypatch.setattr(lab.model, "STAGES", stages)
    monkeypatch.setattr(lab.model, "prompts", lambda count: [WORDS])
    return lab.model


def options(corpus, out, *more):
    return [f"--corpus={corpus}", f"--out={out}", "--save-every=2", "--warmup=2", *more]


def ran(model, monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["lab_model_next", *words])
    model.main()


def test_a_row_of_a_task_is_its_prompt_and_its_answer(lab, corpus, small, tmp_path):
    data, tokenizer = small.prepared(corpus, tmp_path, 0)
    long = 0
    for kind in lab.problems.KINDS.values():
        for task in kind.tasks:
            fits = [
                lab.problems.of_task(task, "5", data.encode, length) for length in (64, 512, 1024)
            ]
            assert fits[0] is None or len(fits[0].ids) <= 64
            row = fits[2]
            if row is None:
                continue
            assert len(row.ids) == len(row.answers) <= 1024
            first = row.answers.index(True)
            assert all(row.answers[first:])
            prompt, answer = tokenizer.decode(row.ids[:first]), tokenizer.decode(row.ids[first:])
            item = task.build(tokenizer, 2048, 1, seed=0)[0]
            assert prompt.split()[:3] == item.prompt.split()[:3], task
            if not isinstance(task, InContextLanguage):  # whose prompt ends with the string itself
                assert prompt.split()[-1] == item.prompt.split()[-1] and answer.strip(), task
            long += len(row.ids) > 900
    assert long > 20  # as many units as there is room for


def test_dense_rows_mark_what_can_be_known(lab, corpus, small, tmp_path):
    data, tokenizer = small.prepared(corpus, tmp_path, 0)
    for seed in range(20):
        rng = random.Random(seed)
        row = lab.problems.repeated(rng, 100, 2048, 3)
        asked = row.answers.index(True)
        period = asked - 1
        assert row.ids[period:] == row.ids[: 100 - period] and all(row.answers[asked:])
        row = lab.problems.dense_pairs(rng, data.encode, 200)
        assert len(row.ids) == len(row.answers) <= 200 and any(row.answers)
        told = tokenizer.decode(row.ids[: row.answers.index(True)])
        marked = [i for i, answer in zip(row.ids, row.answers, strict=True) if answer]
        for word in tokenizer.decode(marked).split():
            assert word == "none" or word.strip('".') in told, (word, told)


def test_batches_depend_on_seed_and_step_alone(corpus, small, tmp_path):
    data, _ = small.prepared(corpus, tmp_path, 0)
    for step in (0, 1, 5):
        one, other = data.batch(step), data.batch(step)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        text, rows, answers = one
        assert (text[:, 0] == 0).all() and (rows[:, 0] == 0).all()
        assert rows.shape == answers.shape and not answers[:, 0].any() and answers.any(1).all()
        assert not answers[rows == small.PAD].any()
    assert not torch.equal(data.batch(0)[0][0, :60], data.batch(1)[0][0, :60])


def test_the_quick_forward_and_backward_are_the_models_own(lab, small):
    torch.manual_seed(0)
    hidden = lab.fast.hidden
    model = small.LlamaForCausalLM(small.configuration())
    for parameter in model.parameters():  # attention that is not even
        parameter.data.mul_(3)
    ids = torch.randint(3, 2048, (2, 150))  # more than a block of queries
    model.set_attn_implementation("eager")
    read = model.model(input_ids=ids, output_attentions=True)
    own, first = read.last_hidden_state, torch.stack(read.attentions)[..., 0]
    direction, push = torch.randn_like(own), 30 * torch.randn_like(first)
    pulled = (own * direction).sum() + (first * push).sum()
    wanted = torch.autograd.grad(pulled, [*model.parameters()])
    for low, most in ((torch.float32, 1e-4), (torch.bfloat16, 0.08)):
        quick, left = hidden(model, ids, low)
        pulled = (quick * direction).sum() + (left * push).sum()
        found = torch.autograd.grad(pulled, [*model.parameters()])
        for one, other in zip((own, first, *wanted), (quick, left, *found), strict=True):
            assert (one - other).norm() <= most * one.norm(), low


def test_muon_side_by_side_is_muon(lab):
    torch.manual_seed(0)
    shapes = [(16, 32), (32, 16), (16, 32), (8, 8)]
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    quick, plain = lab.fast.QuickMuon(ours, 0.1, 0.05), Muon(theirs, 0.1, 0.05)
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        quick.step()
        plain.step()
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() < 0.02 * (other - 1).norm()


def test_phases_follow_each_other_and_the_last_writes_a_model(corpus, small, tmp_path, monkeypatch):
    first, second, end = tmp_path / "first", tmp_path / "second", tmp_path / "end"
    ran(small, monkeypatch, options(corpus, first, "--steps=4", "--optimizer=muon"))
    ran(small, monkeypatch, options(corpus, second, "--steps=2", f"--after={first}"))
    words = options(corpus, end, "--steps=2", f"--after={second}", "--fall", "--rate=1e-3")
    ran(small, monkeypatch, words)
    lines = [json.loads(line) for line in (end / "metrics.jsonl").read_text().splitlines()]
    assert all(len(line["parts"]) == 2 for line in lines)
    assert json.loads((end / "run.json").read_text())["begun"] == 6
    model, tokenizer = lw.load(str(end / "model"))
    assert model.config.max_position_embeddings == 512
    assert tokenizer("a")["input_ids"][0] == 0
    # Begun again it is finished, wherever the run before it has got to.
    ran(small, monkeypatch, words)
    again, _ = lw.load(str(end / "model"))
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_card_holds_a_model_against_every_kind_of_text(
    lab, corpus, small, tmp_path, monkeypatch, capsys
):
    ran(small, monkeypatch, options(corpus, tmp_path, "--steps=1", "--fall"))
    passkey = argparse.Namespace(tasks={"passkey": Passkey("one dog\nsat on a mat\n" * 40)})
    monkeypatch.setattr(lab.card, "suite", lambda name, filler: passkey)
    chosen = ["--only=text", "--only=sinks", "--only=tasks", "--items=2"]
    words = ["lab_model_card", str(tmp_path / "model"), f"--corpus={corpus}", *chosen]
    monkeypatch.setattr(sys, "argv", words)
    lab.card.main()
    told = capsys.readouterr().out
    for name in lab.corpus.KINDS:
        assert len(re.findall(rf"(?m)^\| {name} \| .*\[.*\]", told)) == 2, told
    assert "| quick, passkey | 0.00 [" in told and "| full, passkey | 0.00 [" in told


def test_who_has_no_packages_is_told_where_they_are(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(lab.corpus, "_has_apt", lambda: False)
    with pytest.raises(ValueError, match=r"anarchism_15\.3-3_all\.deb from https://snapshot"):
        lab.corpus.make("essay", tmp_path)
    (tmp_path / "packages" / "anarchism_15.3-3_all.deb").write_bytes(b"another")
    with pytest.raises(ValueError, match="another file than it was"):
        lab.corpus.make("essay", tmp_path)
    with pytest.raises(ValueError, match="is not there; make it with python experiments"):
        lab.corpus.read_kinds(tmp_path)


def test_pages_lose_their_marks(lab):
    page = "<html><head><title>x</title></head><p>One <b>two</b>\n three &amp; four<p>five</html>"
    assert lab.corpus.without_marks(page) == "One two three & four\nfive"
