"""Predicted peaks of training steps against what torch's allocator hands out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lengthwise.hf.families import FAMILIES, UnsupportedModelError
from lengthwise.measure.cost.peak import PeakBytes
from lengthwise.testing.models import tiny_model
from lengthwise.train.memory import Offload, StreamBP, TiledLoss, TiledMLP, fit
from lengthwise.train.plan import (
    LADDER,
    NEXT,
    OPTIMIZERS,
    Levers,
    ModelShape,
    Training,
    longest,
    read_shape,
    step_peak,
)
from lengthwise.train.plan.families import FORWARDS
from lengthwise.train.plan.ledger import Held, Ledger, Tape
from lengthwise.train.plan.model import PLANNED

SETTINGS: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": None,
    "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 4096,
}  # fmt: skip
LOCAL = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
OTHERS: dict[str, dict[str, Any]] = {
    "olmo2": {},
    "phi3": {"sliding_window": None},
    "gpt_neox": {},
    "mistral": {"sliding_window": 64},
    "gemma3_text": LOCAL,
    "gemma2": LOCAL,
    "gpt_oss": LOCAL | EXPERTS,
}
CHECKPOINTING = Levers(checkpointing=True)
TILED = Levers((TiledLoss(128),), checkpointing=True)
TILES = Levers((TiledLoss(128), TiledMLP(128)), checkpointing=True)
STREAM = Levers((StreamBP(128), TiledLoss(128)))


def measured(
    family: str,
    levers: Levers,
    dtype: torch.dtype,
    lora: int,
    length: int,
    batch: int,
    **other: Any,
) -> tuple[int, ModelShape]:
    """Bytes of tensors at the worst moment of a second step, and the model's shape."""
    config = AutoConfig.for_model(family, **{**SETTINGS, **other})
    model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype).train()
    shape = read_shape(model)
    if lora:
        from peft import LoraConfig, get_peft_model

        wanted = LoraConfig(r=lora, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, wanted)
    if levers.checkpointing:
        model.activation_checkpointing_enable()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])

    def step(tokens: int) -> None:
        ids = torch.arange(batch * tokens).view(batch, tokens) % config.vocab_size
        with fit(model, *levers.methods):
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step(4)
    states = [x for state in optimizer.state.values() for x in state.values()]
    held = sum({x.data_ptr(): x.nbytes for x in [*model.parameters(), *states]}.values())
    with PeakBytes(torch.device("cpu")) as peak:
        step(length)
    return held + (peak.bytes or 0), shape


@pytest.mark.parametrize(
    ("family", "levers", "dtype", "lora", "other"),
    [
        ("llama", Levers(), torch.float32, 0, {}),
        ("llama", CHECKPOINTING, torch.bfloat16, 0, {"vocab_size": 4096}),
        ("llama", TILED, torch.float32, 0, {"tie_word_embeddings": True}),
        ("llama", TILES, torch.bfloat16, 0, {"num_key_value_heads": 8}),
        ("llama", STREAM, torch.float32, 0, {}),
        ("llama", STREAM, torch.bfloat16, 0, {"intermediate_size": 512}),
        ("llama", Levers((Offload(), TiledLoss(128))), torch.float32, 0, {}),
        ("llama", Levers(), torch.bfloat16, 8, {}),
        ("llama", CHECKPOINTING, torch.bfloat16, 8, {}),
        ("llama", STREAM, torch.float32, 8, {}),
        ("mistral", CHECKPOINTING, torch.float32, 0, {"sliding_window": None}),
        ("qwen2", TILED, torch.float32, 0, {}),
        ("qwen3", Levers(), torch.bfloat16, 0, {}),
        ("smollm3", TILED, torch.float32, 0, {"no_rope_layers": [1, 0]}),
    ],
    ids=str,
)
def test_the_prediction_is_what_the_allocator_counts(
    family: str, levers: Levers, dtype: torch.dtype, lora: int, other: dict[str, Any]
) -> None:
    length, batch = 512, 1
    real, shape = measured(family, levers, dtype, lora, length, batch, **other)
    training = Training(dtype.itemsize, OPTIMIZERS["adamw"], lora)
    predicted = step_peak(shape, training, levers, length, batch)
    assert predicted.total == pytest.approx(real, rel=0.05), predicted.moment


@pytest.mark.parametrize(
    ("levers", "dtype", "lora"),
    [
        (Levers(), torch.float32, 0),
        (CHECKPOINTING, torch.bfloat16, 0),
        (TILED, torch.bfloat16, 8),
        (TILES, torch.float32, 0),
        (STREAM, torch.float32, 0),
        (STREAM, torch.bfloat16, 8),
    ],
    ids=str,
)
@pytest.mark.parametrize("family", OTHERS)
def test_families_that_allocate_otherwise(
    family: str, levers: Levers, dtype: torch.dtype, lora: int
) -> None:
    real, shape = measured(family, levers, dtype, lora, 512, 1, **OTHERS[family])
    training = Training(dtype.itemsize, OPTIMIZERS["adamw"], lora)
    predicted = step_peak(shape, training, levers, 512)
    assert predicted.total == pytest.approx(real, rel=0.08), predicted.moment


def test_families_can_be_planned_or_say_that_they_cannot() -> None:
    assert set(FORWARDS) == set(PLANNED)
    for family in FAMILIES:
        if family not in PLANNED:
            with pytest.raises(UnsupportedModelError, match=f"not worked out for {family}; it is "):
                read_shape(tiny_model(family))
            continue
        shape = read_shape(tiny_model(family))
        training = Training(4, OPTIMIZERS["adamw"])
        plain, stream = (step_peak(shape, training, one, 2048).total for one in (Levers(), STREAM))
        assert stream < plain / 2, family


@pytest.mark.parametrize("levers", [CHECKPOINTING, STREAM], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "gpt_oss"])
def test_rows_of_a_batch_are_tokens(family: str, levers: Levers) -> None:
    real, shape = measured(family, levers, torch.float32, 0, 200, 3, **OTHERS.get(family, {}))
    training = Training(4, OPTIMIZERS["adamw"])
    assert step_peak(shape, training, levers, 200, 3).total == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_large_vocabulary(family: str, dtype: torch.dtype) -> None:
    settings = {**OTHERS.get(family, {}), "vocab_size": 8192}
    real, shape = measured(family, TILED, dtype, 0, 100, 1, **settings)
    training = Training(dtype.itemsize, OPTIMIZERS["adamw"])
    assert step_peak(shape, training, TILED, 100).total == pytest.approx(real, rel=0.02)


def test_the_optimizer_can_be_the_peak() -> None:
    wide = {"hidden_size": 256, "intermediate_size": 2048}
    real, shape = measured("llama", TILED, torch.float32, 0, 4, 1, **wide)
    peak = step_peak(shape, Training(4, OPTIMIZERS["adamw"]), TILED, 4)
    assert peak.moment.where == "optimizer"
    assert peak.total == pytest.approx(real, rel=0.02)


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    with torch.device("meta"):
        config = AutoConfig.for_model("llama", **{**SETTINGS, "vocab_size": 32768})
        return read_shape(AutoModelForCausalLM.from_config(config))


def test_the_longest_length_fits_and_little_more_does_not(shape: ModelShape) -> None:
    training, room = Training(4, OPTIMIZERS["adamw"]), 2 * 10**9
    for name in LADDER:
        found = longest(shape, training, name, room)
        assert found.peak.total <= room
        more = step_peak(shape, training, LADDER[name], found.tokens + found.tokens // 128 + 1)
        assert more.total > room, name


def test_levers_help_in_their_order(shape: ModelShape) -> None:
    training = Training(2, OPTIMIZERS["adamw"], gpu=True)
    tokens = {name: longest(shape, training, name, 4 * 10**9).tokens for name in LADDER}
    for name, (_, after) in NEXT.items():
        assert tokens[after] > tokens[name], (name, after)


def test_the_host_limits_offload(shape: ModelShape) -> None:
    training, name = (
        Training(2, OPTIMIZERS["adamw"], gpu=True),
        "all (StreamBP + TiledLoss + Offload)",
    )
    free = longest(shape, training, name, 10**9)
    tight = longest(shape, training, name, 10**9, host=free.peak.host // 2)
    assert free.peak.host == free.tokens * 128 * 2 * 2
    assert tight.tokens == pytest.approx(free.tokens / 2, rel=0.02)


def test_nothing_fits_where_the_weights_do_not(shape: ModelShape) -> None:
    assert longest(shape, Training(4, OPTIMIZERS["adamw"]), "plain", 10**6).tokens == 0


def test_a_family_that_is_not_supported() -> None:
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gpt2", n_layer=1, n_embd=8, n_head=1, vocab_size=16)
    )
    with pytest.raises(UnsupportedModelError, match="gpt2 is not supported: it has no rotary"):
        read_shape(model)


def test_the_ledger_frees_what_autograd_frees() -> None:
    ledger = Ledger()
    tape = Tape(ledger)
    x = tape.new(1, 10, 1, wants=True)
    run: Callable[..., Any] = tape.apply
    y = run("square", [x], (1, 10, 1), saves=[x])
    z = run("exp", [y], (1, 10, 1), saves_output=True)
    slot = z.slot
    del y, z
    assert ledger.total == 20  # x, and the output that exp saved
    found = tape.backward(slot, Held(ledger, 10, "activations"))
    # At most: x, exp's output, its gradient and its input's.
    assert ledger.peak.total == 40
    assert list(found) == [x.slot] and ledger.total == 20
