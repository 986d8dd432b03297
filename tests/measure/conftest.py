"""A tiny model with a window of 64 tokens, and tokenizers of several kinds."""

import argparse
import inspect
import textwrap

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = inspect.getsource(argparse) + inspect.getsource(textwrap)
WINDOW = 64


def _finished(tokenizer: Tokenizer, bos: bool) -> PreTrainedTokenizerFast:
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", model_max_length=WINDOW
    )


def byte_level(digits: bool, bos: bool) -> PreTrainedTokenizerFast:
    """BPE over bytes; `digits` keeps every digit a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    parts = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if digits:
        parts.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT, "12345 67890 " * 50], trainer)
    return _finished(tokenizer, bos)


def words() -> PreTrainedTokenizerFast:
    """Pieces of words; blanks and line breaks are no tokens."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=["[UNK]", "<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator([TEXT, "0 1 2 3 4 5 6 7 8 9"], trainer)
    return _finished(tokenizer, bos=True)


def letters() -> PreTrainedTokenizerFast:
    """Every character is a token."""
    alphabet = sorted(set(TEXT) | set("0123456789?:.\n "))
    vocabulary = {"[UNK]": 0, "<s>": 1, "</s>": 2} | {c: i + 3 for i, c in enumerate(alphabet)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return _finished(tokenizer, bos=False)


MAKERS = {
    "digits": lambda: byte_level(digits=True, bos=True),
    "merged digits": lambda: byte_level(digits=False, bos=False),
    "words": words,
    "letters": letters,
}


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    return {name: make() for name, make in MAKERS.items()}


@pytest.fixture(scope="session")
def tokenizer(tokenizers: dict[str, PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    return tokenizers["digits"]


def make_model(seed: int = 0) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
    with torch.no_grad():  # small random weights would ignore their context
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(6)
    return model


@pytest.fixture
def model() -> LlamaForCausalLM:
    return make_model()


@pytest.fixture
def ids() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(2, 400, (2, 200), generator=generator)
    drawn[:, 0] = 0  # <s>
    return drawn
