"""HiRoPE's two levels, and where the functions of real code begin."""

import itertools
import warnings

import pytest
import torch

import lengthwise as lw
from lengthwise.extend.layouts.code_units import CodeUnits
from lengthwise.testing.bench import Bench
from lengthwise.testing.models import tiny_model, tiny_tokenizer

CODE = '''"""A module."""
import os


@cached
def first(a, b):
    def inner():
        return a
    return inner() + b


class Thing:
    size = 3

    def grow(self):
        self.size += 1  # größer

    async def shrink(self):
        self.size -= 1


if os.name == "posix":
    def last():
        pass
done = True
'''
UNITS = [
    '"""A mod',
    "@cached",
    "class Th",
    "    def grow",
    "    async",
    "if os.na",
    "    def last",
    "done",
]


def cut(code, **kw):
    """The texts of the units, read back from the tokens."""
    tokenizer = tiny_tokenizer()
    units = lw.hirope_positions(code, tokenizer, **kw)
    ids, stops = units.ids[0], [*units.starts[1:], units.ids.shape[1]]
    return units, [
        tokenizer.decode(ids[low:high], skip_special_tokens=True)
        for low, high in zip(units.starts, stops, strict=True)
    ]


@pytest.mark.parametrize("language", ["python", "tree-sitter"])
def test_units_are_functions_methods_and_what_stands_between(language, monkeypatch):
    if language == "tree-sitter":
        pytest.importorskip("tree_sitter_python")
        from lengthwise.extend.layouts import code_units

        monkeypatch.setattr(
            code_units, "_python", lambda code: code_units._tree_sitter(code, "python")
        )
    units, texts = cut(CODE)
    assert isinstance(units, CodeUnits) and not units.notes
    assert "".join(texts) == CODE
    starts = [text.lstrip("\n") for text in texts]
    assert [text[: len(unit)] for text, unit in zip(starts, UNITS, strict=True)] == UNITS


@pytest.mark.parametrize("mark", ["\f", "\v", "\x1c", "\x85", "\u2028"])
def test_marks_that_end_no_line_of_code_move_no_border(mark):
    code = f'x = """{mark}{mark}"""\n\ndef first():\n    return 1\n\ndef second():\n    return 2\n'
    tokenizer = tiny_tokenizer()
    units = lw.hirope_positions(code, tokenizer)
    starts = [*units.starts, units.ids.shape[1]]
    found = [tokenizer.decode(units.ids[0, a:b]) for a, b in itertools.pairwise(starts)]
    assert [one.strip() for one in found[1:]] == [
        "def first():\n    return 1", "def second():\n    return 2"
    ]  # fmt: skip


def test_long_units_are_cut_where_that_is_asked():
    plain, _ = cut(CODE)
    units, texts = cut(CODE, longest=20)
    assert set(plain.starts) < set(units.starts) and "".join(texts) == CODE
    assert torch.tensor([*units.starts, units.ids.shape[1]]).diff().max() == 20
    with pytest.raises(ValueError, match="longest must be a whole number of at least 1"):
        cut(CODE, longest=0)


def test_other_languages_go_through_tree_sitter():
    pytest.importorskip("tree_sitter_python")
    with pytest.raises(ValueError, match="pip install tree-sitter tree-sitter-klingon"):
        cut("x", language="klingon")


def test_a_broken_file_falls_back_alone_and_says_so():
    files = {"good.py": "def f():\n    return 1\nx = 2\n", "bad.py": "def g(:\n    y\nz = 3\n"}
    with pytest.warns(UserWarning, match=r"bad\.py is no valid python .*unindented lines"):
        units, texts = cut(files)
    assert len(units.notes) == 1 and "good.py" not in units.notes[0]
    assert [text.strip() for text in texts] == [
        "def f():\n    return 1", "x = 2", "def g(:\n    y", "z = 3"
    ]  # fmt: skip


@pytest.mark.parametrize("code", ["\n\n", "x = 1", "x = '\0'", "é = 'ß'\r\ndef f():\r\n  pass\r\n"])
def test_odd_files_do_not_break_it(code):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not code.strip():
            with pytest.raises(ValueError, match="the text is empty"):
                cut(code)
            return
        units, texts = cut(code)
    assert units.starts[0] == 0 and "".join(texts).strip() == code.strip()


@pytest.mark.parametrize("impl", ["auto", "chunked", "reference"])
def test_attention_is_the_dense_softmax_over_two_levels(impl):
    layout = lw.HiRoPE(starts=(4, 9, 11, 20, 30), pairs=8, split=5, window=8)
    for shape in [(6, 2, 16, 16), (3, 3, 20, 16)]:
        exact = Bench(*shape)
        axes = exact.engine(layout).axes
        for length in (1, 9, 35, 50):
            dense = exact.by_hand(axes, exact.tensors(2, length))
            bench = Bench(*shape, torch.float64, impl)
            out = bench.run(bench.engine(layout), bench.tensors(2, length))
            assert (out - dense).abs().max() < 1e-10


def test_places_of_the_two_levels():
    layout = lw.HiRoPE(starts=(3, 7), pairs=3, split=2, window=2)
    assert layout.starts == (0, 3, 7)
    places = layout.key_place(torch.tensor([[-1, 0, 2, 3, 8, 100]]))
    assert places[0, 1:].tolist() == [[0, 0, 0], [2, 2, 0], [0, 0, 1], [1, 1, 2], [93, 93, 2]]
    _, distance = layout.reference(torch.tensor(8), torch.tensor([2, 6, 7]))
    assert distance.tolist() == [[-1, -1, 2], [-2, -2, 1], [1, 1, 1]]


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "smollm3", "gemma3_text"])
def test_a_fitted_layout_generates(family):
    model = tiny_model(family).double()
    units = lw.hirope_positions(CODE, tiny_tokenizer())
    layout = lw.HiRoPE.fitted(model, units.starts)
    assert layout.window == 32 and 0 < layout.split < layout.pairs
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    with lw.adapted(model, layout):
        out = model.generate(units.ids, **settings)
        with torch.no_grad():
            logits = model(out[:, :-1]).logits[0, -5:]
        assert torch.equal(out[0, -5:], logits.argmax(-1))
    assert torch.isfinite(logits).all() and units.ids.shape[1] > 64


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: lw.HiRoPE(starts=(5, 3), pairs=4, split=2), "must rise from unit to unit"),
        (lambda: lw.HiRoPE(starts=(-1,), pairs=4, split=2), "each of starts"),
        (lambda: lw.HiRoPE(starts=(), pairs=4, split=5), "split must be at most pairs 4"),
        (lambda: lw.adapt(tiny_model("llama"), lw.HiRoPE((), 5, 2, 9)), "rotates 4 pairs"),
        (lambda: lw.adapt(tiny_model("llama"), lw.HiRoPE((), 4, 2, 65)), "trained window of 64"),
    ],
)
def test_what_does_not_fit_is_refused(build, words):
    with pytest.raises(ValueError, match=words) as error:
        build()
    assert "\n" not in str(error.value)
