"""An evaluation reads the same tokens at every length; and memory names its methods."""

import pytest
import torch

import lengthwise as lw
from lengthwise.measure.tasks.loss import losses_by_position
from lengthwise.testing.models import tiny_model, tiny_tokenizer
from lengthwise.train.loop.evaluate import Evaluation, doubling, make_evaluation
from lengthwise.train.loop.facts import Facts
from lengthwise.train.memory.methods import Offload, StreamBP, TiledLoss
from lengthwise.train.named import read_memory
from lengthwise.train.recipe import Recipe

FACTS = Facts(64, 256, 10_000.0, 8, 1)


def evaluation(text: str, **changes: int) -> Evaluation:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    settings = {"counted": 16, "texts": 3, "passkeys": 2, **changes}
    return Evaluation(tokenizer, text, torch.tensor(ids), 1, (64, 128), **settings)


def test_losses_are_of_the_same_tokens() -> None:
    """A length's loss is that of the text's own last tokens, with so much before them."""
    text = "The reader keeps a window open on the text, 0 to 9. " * 40
    ours, model = evaluation(text), tiny_model("llama")
    found = ours(model)["loss"]
    room = len(ours.ids) - 128
    for length in (64, 128):
        losses = []
        for number in range(3):
            stop = 128 + room * number // 2
            row = torch.cat([torch.tensor([1]), ours.ids[stop - length + 1 : stop]])[None]
            assert row.shape == (1, length)
            losses.append(losses_by_position(model, row)[0, -16:].mean())
        assert found[str(length)] == pytest.approx(float(torch.stack(losses).mean()), abs=1e-4)


def test_it_leaves_the_model_in_training() -> None:
    model = tiny_model("llama").train()
    found = evaluation("The reader keeps a window open on the text. " * 60)(model)
    assert model.training
    assert set(found["passkey"]) == {"64", "128"}
    assert all(share in (0, 0.5, 1) for share in found["passkey"].values())


def test_frequencies_that_move_are_read_at_once() -> None:
    """transformers' longrope with a cache in chunks would read keys of other frequencies."""
    long = (1.5, 2.0, 3.0, 4.0)
    rope = {
        "rope_type": "longrope", "rope_theta": 1e4, "factor": 8.0, "attention_factor": 1.0,
        "short_factor": [1.0] * 4, "long_factor": list(long),
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    text = "The reader keeps a window open on the text, 0 to 9. " * 200
    tokenizer = tiny_tokenizer()
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    ours = Evaluation(tokenizer, text, ids, 1, (64, 700), 16, 1, 0)
    plain = tiny_model("llama", rope_parameters=rope, max_position_embeddings=512)
    other = lw.adapt(tiny_model("llama"), lw.LongRoPE2(long, 8.0, attention_factor=1.0))
    found, wanted = ours(plain)["loss"], ours(other)["loss"]
    assert found["64"] == pytest.approx(wanted["64"], abs=2e-4)
    # Rows of an adapted model switch at once too: a text beyond the window is read as such.
    assert found["700"] == pytest.approx(wanted["700"], abs=2e-4)


def test_lengths() -> None:
    assert doubling(512, 4096) == (512, 1024, 2048, 4096)
    assert doubling(512, 1000) == (512, 1000)
    assert doubling(512, 512) == (512,)
    tokenizer = tiny_tokenizer()
    made = make_evaluation(Recipe(passkeys=0), tokenizer, FACTS)
    assert made.lengths == (64, 128, 256) and made.counted == 32
    with pytest.raises(ValueError, match="give a longer evaluate_text or shorter lengths"):
        make_evaluation(Recipe(evaluate_lengths=(1 << 31,)), tokenizer, FACTS)
    with pytest.raises(ValueError, match="there is no file"):
        make_evaluation(Recipe(evaluate_text="absent.txt"), tokenizer, FACTS)


def test_memory_by_name() -> None:
    found = read_memory("streambp:chunk=64 + tiledloss+offload")
    assert found == (StreamBP(64), TiledLoss(), Offload())
    assert read_memory("") == ()
    for words, said in (
        ("streamb", "unknown memory method 'streamb'; did you mean StreamBP"),
        ("streambp:chunk=x", "StreamBP: chunk must be a whole number, at least 1, got 'x'"),
        ("streambp:size=4", "StreamBP has no option 'size'; its options: chunk=2048"),
        ("offload:chunk=4", "Offload has no option 'chunk'; its options: none"),
    ):
        with pytest.raises(ValueError, match=said):
            read_memory(words)
