"""Methods by name: spelling, options, what is said about mistakes, and what docstrings give."""

import pytest

import lengthwise as lw
from lengthwise.catalogue import check, check_defaults, describe, find, methods, parse, parse_many
from lengthwise.extend.method import Method

EXPORTED = list(methods().items())
IDENTITIES = {"OwnScaling", "Causal", "AllPages", "FullStore"}


@pytest.mark.parametrize(("name", "cls"), EXPORTED)
def test_every_docstring_gives_a_whole_description(name: str, cls: type[Method]) -> None:
    said = describe(name)
    assert said.name == name and said.axis == cls.axis
    assert said.summary.endswith((".", ":")) and "\n" not in said.summary
    assert said.details.startswith(said.summary[:20])
    assert bool(said.source) != (name in IDENTITIES)
    assert all(option.text.endswith(".") for option in said.options), said.options


@pytest.mark.parametrize(("name", "cls"), EXPORTED)
def test_every_example_is_understood(name: str, cls: type[Method]) -> None:
    assert type(parse(describe(name).example.replace("…", "8"))) is cls


def test_the_parts_of_one_docstring() -> None:
    said = describe("yarn")
    assert said.summary == "NTK-by-parts with a temperature."
    assert said.source.startswith("Peng et al. 2023, arXiv:2309.00071, section 3.2")
    assert said.reduces == "the model's own frequencies at factor 1."
    factor, beta_fast, _ = said.options
    assert (factor.default, factor.range, str(factor)) == (
        None,
        "at least 1",
        "factor=… (at least 1)",
    )
    assert (beta_fast.default, beta_fast.range) == ("32.0", "above beta_slow")
    assert said.example == "yarn:factor=…"
    assert describe("self-extend").example == "selfextend:group=8,window=1024"
    assert describe("causal").options == ()


@pytest.mark.parametrize(
    "name", ["self-extend", "selfextend", "SelfExtend", "SELF_EXTEND", "self extend"]
)
def test_names_ignore_case_and_punctuation(name: str) -> None:
    assert find(name) is lw.SelfExtend


def test_values_have_the_types_of_the_fields() -> None:
    yarn = parse(" yarn : factor = 8 , beta_fast=16 ")
    assert yarn == lw.YaRN(factor=8.0, beta_fast=16.0)
    assert isinstance(yarn, lw.YaRN) and isinstance(yarn.factor, float)
    streaming = parse("streaming-llm:window=256")
    assert streaming == lw.StreamingLLM(sinks=4, window=256)
    assert isinstance(streaming, lw.StreamingLLM) and isinstance(streaming.window, int)


def test_several_axes_are_joined_by_plus() -> None:
    both = (lw.YaRN(factor=8), lw.StreamingLLM(window=256))
    assert parse_many("yarn:factor=8+streamingllm:window=256") == both
    assert parse_many("pi:factor=1e+1 + causal") == (lw.PI(factor=10), lw.Causal())
    assert parse_many("plain") == parse_many(" Plain ") == ()


def test_a_budget_holds_the_sinks() -> None:
    assert parse("streamingllm:budget=100") == lw.StreamingLLM(sinks=4, window=96)
    assert parse("streamingllm:budget=100,sinks=2") == lw.StreamingLLM(sinks=2, window=98)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("yran:factor=2", "unknown method 'yran'; did you mean YaRN?"),
        ("streaming", "did you mean StreamingLLM?"),
        ("zzz", "unknown method 'zzz'; methods: "),
        ("", "'' names no method"),
        ("+", "names no method"),
        ("yarn:factor=2+", "names no method"),
        ("plain+yarn:factor=2", "plain means no method"),
        ("yarn", "YaRN needs factor: Target length divided by the trained window, at least 1"),
        ("yarn:", "write options as option=value"),
        ("yarn:factor", "write options as option=value"),
        ("yarn:factor=", "write options as option=value"),
        ("yarn:factor=2,factor=3", "YaRN: factor is given twice"),
        ("yarn:fctor=2", "YaRN has no option 'fctor'; did you mean factor? Its options: factor=…"),
        ("causal:window=2", "Causal has no option 'window'; its options: none"),
        ("yarn:factor=many", "YaRN: factor must be a number, at least 1, got 'many'"),
        ("slidingwindow:window=2.5", "SlidingWindow: window must be a whole number, at least 1"),
        ("slidingwindow:window=0", "SlidingWindow: window must be a whole number of at least 1"),
        ("pi:factor=0", "PI: factor must be at least 1, got 0.0"),
        ("pi:factor=-2", "PI: factor must be at least 1, got -2.0"),
        ("pi:factor=nan", "PI: factor must be a number, at least 1, got 'nan'"),
        ("pi:factor=inf", "PI: factor must be a number, at least 1, got 'inf'"),
        ("prefixkv:budgets=inf", "PrefixKV: budgets must be whole numbers as 12/40"),
        ("prefixkv:budgets=8/1", "PrefixKV: budgets must be a whole number of at least 2, got 1"),
        ("yarn:factor=8,beta_slow=64", "beta_slow must be above 0 and below beta_fast"),
        ("logtemperature:over=pi:factor=0", "PI: factor must be at least 1, got 0.0"),
        ("logtemperature:over=h2o", "LogTemperature: over must be a scaling such as lw.YaRN"),
        ("streamingllm:budget=4", "StreamingLLM: budget must be above the 4 sinks, got 4 tokens"),
        ("streamingllm:budget=0", "StreamingLLM: budget must be above the 4 sinks, got 0 tokens"),
        ("streamingllm:budget=9,window=3", "budget and window both say how much is kept"),
    ],
)
def test_mistakes_are_named_in_one_line(spec: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_many(spec)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError) as sooner:
        check([spec])
    assert str(sooner.value) == str(caught.value)


def test_what_others_bring_is_understood_but_not_offered() -> None:
    with pytest.raises(ValueError) as caught:
        check(["zzz"])
    offered = str(caught.value).partition("methods: ")[2].split(", ")
    assert {*dict(EXPORTED)} - {*offered} == {"CacheSlots", "FarAsOne", "OwnScaling"}
    assert parse("farasone:window=8") == lw.FarAsOne(8)


def test_a_scaling_around_another_may_stand_in_brackets() -> None:
    inner = lw.YaRN(factor=8, beta_fast=16)
    assert parse("logtemperature:over=(yarn:factor=8,beta_fast=16)") == lw.LogTemperature(inner)


def test_defaults_for_large_models_are_refused_on_small_ones() -> None:
    with pytest.raises(ValueError, match="write lminfinite:window=508"):
        check_defaults([lw.LMInfinite()], 512)
    with pytest.raises(ValueError, match="write streamingllm:window=60"):
        check_defaults([lw.StreamingLLM()], 64)


@pytest.mark.parametrize(
    "chosen",
    [
        [lw.LMInfinite(window=508)],
        [lw.LMInfinite(window=1000)],  # somebody's wish
        [lw.YaRN(factor=8), lw.LMInfinite()],  # the scaling makes room
        [lw.FullStore()],
        [],
    ],
)
def test_chosen_windows_are_left_alone(chosen: list[Method]) -> None:
    check_defaults(chosen, 512)
