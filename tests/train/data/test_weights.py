"""Every document counts the same: packed, accumulated over micro-batches, and over ranks."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import TrainingArguments

from lengthwise.testing.models import tiny_model
from lengthwise.train.data.collate import PackedCollator
from lengthwise.train.data.segments import document_attention
from lengthwise.train.data.trainer import SequenceWeightedTrainer
from lengthwise.train.data.weights import sequence_loss_weights, total_weight, weighted_loss

# Rows of documents; the last row's first document has nothing to predict.
ROWS = [[12, 3, 2], [17], [4, 9], [1, 6]]


def documents():
    g = torch.Generator().manual_seed(0)
    return [[torch.randint(3, 320, (n,), generator=g).tolist() for n in row] for row in ROWS]


def packed_rows():
    return [
        {"input_ids": [t for doc in row for t in doc], "seq_lengths": list(map(len, row))}
        for row in documents()
    ]


def mean_of_sequences(model):
    """LongAlign's aim by its definition: the mean over sequences of their mean losses."""
    model.zero_grad()
    docs = [torch.tensor([doc]) for row in documents() for doc in row if len(doc) > 1]
    for ids in docs:
        logits = model(input_ids=ids, use_cache=False).logits
        (cross_entropy(logits[0, :-1], ids[0, 1:]) / len(docs)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@given(st.lists(st.integers(1, 9), max_size=6), st.data())
def test_weights_of_a_sequence_sum_to_one(lengths, data):
    count = sum(lengths)
    labels = data.draw(st.lists(st.sampled_from((-100, 7)), min_size=count, max_size=count))
    weights, at = sequence_loss_weights(lengths, labels), 0
    assert len(weights) == count
    for n in lengths:
        mine, targets = weights[at : at + n], [x != -100 for x in labels[at + 1 : at + n]]
        assert sum(mine) == pytest.approx(1.0 if any(targets) else 0.0)
        assert [w > 0 for w in mine] == [False, *targets]
        assert len({w for w in mine if w}) <= 1
        at += n


def test_weights_by_hand():
    assert sequence_loss_weights([3, 1, 2]) == [0.0, 0.5, 0.5, 0.0, 0.0, 1.0]
    assert sequence_loss_weights([4], [5, -100, 6, 7]) == [0.0, 0.0, 0.5, 0.5]
    assert sequence_loss_weights([]) == []


def test_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        sequence_loss_weights([2, 0])
    with pytest.raises(ValueError, match="each of 3 tokens, got 2"):
        sequence_loss_weights([3], [1, 2])
    logits, labels, weights = torch.zeros(1, 4, 8), torch.zeros(1, 4).long(), torch.ones(1, 4)
    with pytest.raises(ValueError, match=r"must be \(1, 4\) .* got \(1, 3\)"):
        weighted_loss(logits, labels[:, :3], weights[:, :3], torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"above 0, got 0\.0: the step has no targets"):
        weighted_loss(logits, labels, weights, torch.tensor(0.0))


def test_weights_of_one_are_the_token_mean():
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 5, 8, generator=g, dtype=torch.float64)
    labels = torch.tensor([[-100, 1, 2, -100, 3], [-100, 4, 5, 6, 7]])
    batch = {"labels": labels, "loss_weights": torch.ones(2, 5)}
    total = total_weight([batch])
    assert float(total) == 7
    want = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert torch.allclose(weighted_loss(logits, labels, batch["loss_weights"], total), want)


@pytest.mark.parametrize("micro", [1, 2, 3, 4])
def test_any_number_of_micro_batches_gives_the_mean_of_sequences(micro):
    model = tiny_model("llama").double()
    wanted = mean_of_sequences(model)
    collate, rows = PackedCollator(weights=True), packed_rows()
    batches = [collate(rows[n : n + micro]) for n in range(0, len(rows), micro)]
    total = total_weight(batches)
    assert float(total) == pytest.approx(7)  # 8 documents, one of a single token
    model.zero_grad()
    loss = 0.0
    with document_attention(model):
        for batch in batches:
            labels, weights = batch.pop("labels"), batch.pop("loss_weights").double()
            part = weighted_loss(model(**batch).logits, labels, weights, total)
            part.backward()
            loss += part.item()
    # Weights travel as float32; 1/3 of them is right to 3e-8.
    for name, p in model.named_parameters():
        assert (p.grad - wanted[name]).abs().max() < 1e-6, name
    assert 0 < loss < 20


# A bigram model keeps transformers out of the processes, which start in a third of the time so;
# that packed rows are right through a whole model is shown above.
RANK = """
import sys, torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from lengthwise.train.data.weights import total_weight, weighted_loss

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
model = nn.Sequential(nn.Embedding(320, 8), nn.Linear(8, 320)).double()
model.load_state_dict(torch.load(f"{folder}/model.pt"))
model = DistributedDataParallel(model)
batches = torch.load(f"{folder}/batches.pt")[rank]
total = total_weight(batches)
for n, batch in enumerate(batches):
    model.require_backward_grad_sync = n == len(batches) - 1
    logits = model(batch["input_ids"])
    loss = weighted_loss(logits, batch["labels"], batch["loss_weights"], total)
    (loss * dist.get_world_size()).backward()
torch.save([float(total), [p.grad for p in model.parameters()]], f"{folder}/rank{rank}.pt")
dist.barrier()  # who takes its group down while the other one still works may abort it
dist.destroy_process_group()
"""


def test_two_ranks_with_accumulation_give_the_mean_of_sequences(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(320, 8), nn.Linear(8, 320)).double()
    docs = [torch.tensor(doc) for row in documents() for doc in row if len(doc) > 1]
    sum(cross_entropy(model(ids[:-1]), ids[1:]) / len(docs) for ids in docs).backward()
    collate, rows = PackedCollator(weights=True), packed_rows()
    batches = [collate([row]) for row in rows]
    # Unequal on purpose: one rank has four documents to learn from, the other three.
    torch.save([batches[:2], batches[2:]], tmp_path / "batches.pt")
    torch.save(model.state_dict(), tmp_path / "model.pt")
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    command = [sys.executable, str(script)]
    ranks = [subprocess.Popen([*command, str(n), str(tmp_path)]) for n in range(2)]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    for n in range(2):
        total, gradients = torch.load(tmp_path / f"rank{n}.pt")
        assert total == pytest.approx(7)
        for p, got in zip(model.parameters(), gradients, strict=True):
            assert (got - p.grad).abs().max() < 1e-7


def trainer(tmp_path, model, collate, rows, trainer_class=SequenceWeightedTrainer, **settings):
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=1, max_steps=1, optim="sgd",
        learning_rate=1.0, lr_scheduler_type="constant", max_grad_norm=0.0, weight_decay=0.0,
        save_strategy="no", report_to=[], use_cpu=True, remove_unused_columns=False,
        disable_tqdm=True, **settings,
    )  # fmt: skip
    return trainer_class(model, arguments, data_collator=collate, train_dataset=rows)


@pytest.mark.parametrize("micro", [1, 4])
def test_trainer_takes_the_step_of_the_mean_of_sequences(tmp_path, micro):
    model = tiny_model("llama").double()
    wanted = mean_of_sequences(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run = trainer(
        tmp_path, model, PackedCollator(weights=True), packed_rows() * micro,
        gradient_accumulation_steps=4 * micro,
    )  # fmt: skip
    with document_attention(model):
        run.train()
    for name, p in model.named_parameters():
        assert (before[name] - p - wanted[name]).abs().max() < 1e-6, name


def test_trainer_refuses_batches_without_weights(tmp_path):
    run = trainer(tmp_path, tiny_model("llama"), PackedCollator(), packed_rows())
    with pytest.raises(ValueError, match="no loss_weights; use PackedCollator"):
        run.train()
