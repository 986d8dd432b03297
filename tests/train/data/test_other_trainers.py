"""The examples of docs/data.md: what other people's trainers make of packed rows."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_from_disk
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

import lengthwise as lw
from lengthwise.testing.models import tiny_model, tiny_tokenizer
from lengthwise.train.data.collate import PackedCollator
from lengthwise.train.data.pipeline import pack
from lengthwise.train.data.segments import document_attention

LENGTHS = (9, 7, 8, 5, 12, 3, 6, 10)
QUICK: dict[str, Any] = {
    "max_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": len(LENGTHS),
    "use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True,
}  # fmt: skip
SLIM_AND_WHOLE = (True, False)


def documents() -> list[list[int]]:
    g = torch.Generator().manual_seed(0)
    return [torch.randint(3, 300, (n,), generator=g).tolist() for n in LENGTHS]


def packed(folder: Path, slim: bool) -> Dataset:
    Dataset.from_dict({"input_ids": documents()}).save_to_disk(folder / "in")
    pack(folder / "in", folder / "out", 24, slim=slim)
    return load_from_disk(folder / "out")


@pytest.fixture(scope="module")
def apart() -> float:
    """The mean loss of all targets, every document in a forward of its own."""
    model, total = tiny_model("llama"), 0.0
    with torch.no_grad():
        for document in documents():
            ids = torch.tensor([document])
            logits = model(ids, use_cache=False).logits
            total += float(cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum"))
    return total / (sum(LENGTHS) - len(LENGTHS))


def model_of(adapted: bool) -> Any:
    model = tiny_model("llama")
    return lw.adapt(model) if adapted else model


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("slim", SLIM_AND_WHOLE)
def test_transformers_trainer(tmp_path: Path, apart: float, adapted: bool, slim: bool) -> None:
    rows = packed(tmp_path, slim)
    for keep in (True, False):  # False is transformers' default, which drops seq_lengths
        model = model_of(adapted)
        arguments = TrainingArguments(
            str(tmp_path / "run"), remove_unused_columns=not keep, **QUICK
        )
        trainer = Trainer(model, arguments, data_collator=PackedCollator(), train_dataset=rows)
        with nullcontext() if adapted else document_attention(model):
            if keep:
                assert trainer.train().training_loss == pytest.approx(apart, rel=1e-5)
            else:
                with pytest.raises(ValueError, match="set remove_unused_columns=False"):
                    trainer.train()


def sft(folder: Path, model: Any, rows: Dataset, **settings: Any) -> float:
    """The loss of TRL's trainer."""
    trl = pytest.importorskip("trl")
    config = trl.SFTConfig(str(folder / "run"), bf16=False, **QUICK, **settings)
    trainer = trl.SFTTrainer(model, config, train_dataset=rows, processing_class=tiny_tokenizer())
    return float(trainer.train().training_loss)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("slim", SLIM_AND_WHOLE)
def test_trl_without_padding(tmp_path: Path, apart: float, adapted: bool, slim: bool) -> None:
    rows, as_they_are = packed(tmp_path, slim), {"skip_prepare_dataset": True}
    given: dict[str, Any] = {"max_length": None, "dataset_kwargs": as_they_are}
    model = model_of(adapted)
    with document_attention(model, by_positions=True) if adapted else nullcontext():
        loss = sft(tmp_path, model, rows, padding_free=True, **given)
    assert loss == pytest.approx(apart, rel=1e-5)
    if adapted:  # positions alone never stand for documents
        with pytest.raises(ValueError, match=r"position_ids start again"):
            sft(tmp_path, model_of(True), rows, padding_free=True, **given)
    # Why padding_free must be on: TRL's collator drops the lengths without it.
    joined = sft(tmp_path, model_of(adapted), rows, **given)
    assert abs(joined - apart) > 0.05


@pytest.mark.parametrize("adapted", [False, True])
def test_trl_packs_by_itself(tmp_path: Path, apart: float, adapted: bool) -> None:
    model, rows = model_of(adapted), Dataset.from_dict({"input_ids": documents()})
    with document_attention(model, by_positions=True) if adapted else nullcontext():
        loss = sft(tmp_path, model, rows, packing=True, max_length=24)
    assert loss == pytest.approx(apart, rel=1e-5)
