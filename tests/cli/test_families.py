"""Every command on families of every kind, as small checkpoints on the disk."""

from pathlib import Path

import torch
from tests.cli.conftest import Call
from transformers import AutoModelForCausalLM

import lengthwise as lw
from lengthwise.hf.families import read_geometry
from lengthwise.testing.models import tiny_model, tiny_tokenizer

FAMILIES = ("glm", "falcon", "llama4_text")
IDS = torch.randint(3, 300, (1, 150), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_commands_take_every_family(tmp_path: Path, call: Call) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The pass key is 71432. " * 20)
    for family in FAMILIES:
        model, folder = tiny_model(family), tmp_path / family
        lw.save(model, tiny_tokenizer(), folder)
        status, out, err = call("plan", folder, "--tokens", 500)
        assert status == 0, (family, err)
        store = "streamingllm:sinks=2,window=30"
        how = ("--prompt-file", text, "--max-new-tokens", 4)
        status, out, err = call("run", folder, "--method", store, *how)
        assert status == 0, (family, err)
        status, out, err = call(
            "measure", folder, "-o", tmp_path / f"{family} measured", "--suite", "loss",
            "--lengths", "32,128", "--method", store,
        )  # fmt: skip
        assert status == 0, (family, err)
        longer = tmp_path / f"{family} longer"
        status, out, err = call("extend", folder, "--method", "yarn:factor=4", "-o", longer)
        if not read_geometry(model).turns:
            assert status == 2 and "YaRN would change nothing: in this" in err, (family, err)
            continue
        assert status == 0 and "transformers 5" in out, (family, err)
        theirs = AutoModelForCausalLM.from_pretrained(longer).eval()(IDS).logits
        ours = lw.adapt(model, lw.YaRN(factor=4))(IDS).logits
        torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)
