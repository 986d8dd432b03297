"""The command line on models without rotary positions: ALiBi reads, encoders are extended."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf

import lengthwise as lw
from lengthwise.measure import Results
from lengthwise.testing.models import tiny_tokenizer

Call = Callable[..., tuple[int, str, str]]
WINDOW = 64
CONFIGS = {
    "bloom": {"hidden_size": 48, "n_layer": 2, "n_head": 6, "seq_length": WINDOW},
    "mpt": {"d_model": 48, "n_layers": 2, "n_heads": 6, "max_seq_len": WINDOW},
    "falcon": {
        "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "alibi": True,
        "max_position_embeddings": WINDOW,
    },
    "bert": {
        "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6,
        "intermediate_size": 64, "max_position_embeddings": WINDOW,
    },
}  # fmt: skip
CLASSES = {
    "bloom": hf.BloomForCausalLM,
    "mpt": hf.MptForCausalLM,
    "falcon": hf.FalconForCausalLM,
    "bert": hf.BertForMaskedLM,
}


@pytest.fixture(scope="module", params=["bloom", "mpt", "falcon"])
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(request.param, tmp_path_factory.mktemp("models") / request.param)


def save(family: str, folder: Path) -> Path:
    tokenizer = tiny_tokenizer()
    config = hf.AutoConfig.for_model(
        family, **CONFIGS[family], vocab_size=len(tokenizer), eos_token_id=None
    )
    torch.manual_seed(0)
    model = CLASSES[family](config)
    if model.can_generate():
        model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_extend_run_and_measure(reader: Path, book: Path, tmp_path: Path, call: Call) -> None:
    extended = tmp_path / "extended"
    status, out, err = call("extend", reader, "--method", "alibipi:factor=4", "-o", extended)
    assert (status, err) == (0, ""), err
    assert "ALiBiPI(factor=4" in out

    words = ("--prompt-file", book, "--max-new-tokens", 8)
    named = call("run", reader, *words, "-m", "alibipi:factor=4")
    assert named[0] == 0, named
    assert call("run", extended, *words) == named

    model, tokenizer = lw.load(reader)
    lw.adapt(model, lw.ALiBiPI(factor=4))
    ids = torch.tensor([tokenizer(book.read_text(), verbose=False)["input_ids"]])
    new = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    assert named[1] == tokenizer.decode(new, skip_special_tokens=True) + "\n"

    folder = tmp_path / "measured"
    status, _, err = call(
        "measure", reader, "-m", "plain", "-m", "alibipi:factor=4", "--text", book,
        "--lengths", "1x,2x", "--suite", "loss,speed", "-o", folder,
    )  # fmt: skip
    assert status == 0, err
    results = Results.load(folder)
    assert results.plan["reader"]["window"] == WINDOW
    assert not [row.refused for row in results.finished if row.refused]
    assert results.methods == ["plain", "alibipi:factor=4"]


def test_an_encoder_is_extended_and_not_read_with(
    book: Path, tmp_path: Path, call: Call, refused: Callable[..., str]
) -> None:
    bert = save("bert", tmp_path / "bert")
    extended = tmp_path / "extended"
    status, out, err = call("extend", bert, "-m", "tempscale:temperature=0.8", "-o", extended)
    assert (status, err) == (0, ""), err
    loaded, _ = lw.load(extended)
    assert "temperature=0.8" in lw.explain(loaded)
    line = refused("run", bert, "--prompt-file", book)
    assert "is a bert, no causal language model" in line and "lw.adapt" in line


def test_a_rotary_method_says_what_fits(reader: Path, tmp_path: Path, call: Call) -> None:
    status, _, err = call("extend", reader, "-m", "yarn:factor=4", "-o", tmp_path / "out")
    assert status == 2 and "linear biases" in err and err.count("\n") == 1
