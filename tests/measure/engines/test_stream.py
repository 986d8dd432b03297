"""What is an answer: every end that servers are known for, and fields of every other type."""

from typing import Any

import pytest

from lengthwise.measure.engines.stream import Heard
from lengthwise.measure.engines.wire import Again, Refused, line, message, sound

PROMPT, ALLOWANCE = 500, 64


def chunk(text: Any = "", end: Any = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": end, "text": text, "delta": {"content": text}}
    return {"model": "m", "choices": [choice], **more}


def counts(read: Any, written: Any) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": read, "completion_tokens": written}}


def heard(*chunks: Any, form: Any = "completions") -> Heard:
    found = Heard(form, ALLOWANCE)
    for number, one in enumerate(chunks):
        found.take(one, float(number))
    found.finish(float(len(chunks)))
    return found


def test_every_end_that_servers_write() -> None:
    """Answers are what a model ended or the allowance did; all else is named."""
    answers = ("stop", "length", "eos", "eos_token", "stop_sequence", "end_turn", "max_tokens")
    final = ("content_filter", "tool_calls", "function_call", "repetition", "model_length", "x")
    later = ("abort", "aborted", "cancelled", "error", "insufficient_system_resource", "", None)
    for end in answers:
        assert heard(chunk("7"), chunk(end=end)).refusal(PROMPT) == ""
    for end in final:
        why = heard(chunk("7"), chunk(end=end)).refusal(PROMPT)
        assert why == f"the server ended it by {end!r}, which is no end of an answer"
    for end in later:
        with pytest.raises(Again, match=r"(gave up|broke off) after 1 char"):
            heard(chunk("7"), chunk(end=end))


def test_a_null_end_after_the_end_takes_nothing_back() -> None:
    assert heard(chunk("7", "stop"), {"choices": []}, chunk("", None)).ended == "stop"


def test_text_first_token_and_name() -> None:
    found = heard({"model": "", "choices": []}, chunk("ab"), chunk("c"), chunk(end="stop"))
    assert (found.text, found.first, found.seconds, found.model) == ("abc", 1.0, 4.0, "m")
    assert heard(chunk(None), chunk(end="stop")).refusal(PROMPT) == ""  # an answer of nothing


def test_a_cut_prompt() -> None:
    """Beyond special tokens and a hundredth, fewer tokens than were sent are a cut."""
    for read, cut in ((499, False), (487, False), (486, True), (50, True), (700, False)):
        found = heard(chunk("7"), chunk(end="stop", **counts(read, 1)))
        assert bool(found.refusal(PROMPT)) == cut, read


def test_an_answer_that_the_server_cut_short() -> None:
    for written, end, cut in (
        (64, "length", 0),
        (63, "length", 0),
        (9, "length", 1),
        (9, "stop", 0),
    ):
        found = heard(chunk("7"), chunk(end=end, **counts(PROMPT, written)))
        assert bool(found.refusal(PROMPT)) == cut, (written, end)
    # A count from before the last text is none of the answer.
    assert heard(chunk("7", **counts(PROMPT, 1)), chunk("8", "length")).refusal(PROMPT) == ""


def test_counts_come_last_or_with_every_chunk() -> None:
    last = heard(chunk("7"), chunk(end="stop"), {"choices": [], **counts(PROMPT, 2)})
    every = heard(
        chunk("7", **counts(PROMPT, 1)), chunk("8", "stop", **counts(PROMPT, 2)), {"usage": None}
    )
    assert (last.read, last.written) == (every.read, every.written) == (PROMPT, 2)
    for nonsense in (None, "7", 10**30, -1, 0, True, float("nan"), 2.5, [7], {}):
        found = heard(chunk("7", "stop", **counts(nonsense, nonsense)))
        assert found.read is found.written is None
    for usage in ([1], "x", 7, True):
        assert heard(chunk("7", "stop", usage=usage)).read is None


def test_thoughts_and_tools_are_no_text() -> None:
    for aside in ("reasoning_content", "reasoning", "refusal", "tool_calls"):
        thought = {"choices": [{"delta": {aside: "hm", "content": None}}]}
        form = "chat/completions"
        assert heard(thought, chunk(end="length"), form=form).refusal(PROMPT) == (
            f"the server gave {aside} and no text"
        )
        assert heard(thought, chunk("7", "stop"), form=form).refusal(PROMPT) == ""


def test_other_types_are_a_broken_stream() -> None:
    broken = (
        7, None, "x", [chunk("7")], chunk(7), chunk(["7"]), chunk("7", {"type": "abort"}),
        chunk("7", 1), {"choices": "x"}, {"choices": {"0": 1}}, {"choices": 7}, {"choices": [7]},
        {"choices": [None]}, {"choices": [[]]}, {"choices": [{"index": "x"}]}, {"model": 7},
    )  # fmt: skip
    for one in broken:
        with pytest.raises(Again):
            heard(chunk("7"), one, chunk(end="stop"))
    with pytest.raises(Again, match="delta is a list"):
        heard({"choices": [{"delta": []}]}, form="chat/completions")
    assert heard({"choices": None}, {}, chunk("7", "stop")).text == "7"
    second = {"choices": [{"index": 1, "text": "8", "finish_reason": "error"}]}
    assert heard(chunk("7"), second, chunk(end="stop")).text == "7"


def test_who_writes_on_is_stopped() -> None:
    with pytest.raises(Refused, match="writes on past the 64 tokens allowed"):
        heard(*[chunk("All work and no play. " * 100)] * 20)


def test_a_text_can_be_written_down() -> None:
    assert (
        heard(chunk("a\ud83d"), chunk("\ude00b\ud800", "stop")).text == "a\N{GRINNING FACE}b\ufffd"
    )
    assert sound("as it is") == "as it is"
    assert line("\x1b[2J\ud800 a\n\tb\u2028c \u200e") == "\ufffd[2J\ufffd a b c \ufffd"
    assert len(line("x" * 10**7)) == 300


def test_a_servers_words() -> None:
    assert message('{"error": {"message": "no\\nway"}}') == "no way"
    assert message('{"detail": [{"msg": "no"}]}') == '{"detail": [{"msg": "no"}]}'
    assert message('{"error": {}}') == '{"error": {}}'
    assert message("[" * 100_000) == line("[" * 300 + "[")
    assert message("<p>Bad\n gateway</p>") == "<p>Bad gateway</p>"
