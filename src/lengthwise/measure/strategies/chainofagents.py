from dataclasses import dataclass

from lengthwise.measure.strategies.base import Asking, Strategy, pieces, room_for

_WORKER = (
    "{part}\n\nNotes on the text before this part: {notes}\n\nQuestion that will be asked: "
    "{question}\n\nWrite new notes, in one or two sentences: keep of the notes and of the text "
    "above whatever helps to answer the question, with its exact names and numbers."
)
_MANAGER = (
    "Notes on a text that is too long to be shown:\n{notes}\n\nAnswer from these notes.\n{question}"
)
_NOTHING = "none yet"


@dataclass(frozen=True)
class ChainOfAgents(Strategy):
    """Read part after part, each with notes on those before it, and answer from the last notes.

    Source: Zhang et al. 2024, Chain of Agents (arXiv:2406.02818), algorithm 1, with its units of
    communication here called notes.
    Differs from the source: the instructions are ours, and notes that came back empty leave the
    ones before in place.

    Args:
        window: Tokens of a prompt and its answer, at least 16; 0 is the model's own.
        notes: Tokens of the notes, at least 8.
    """

    notes: int = 96

    def __post_init__(self) -> None:
        super().__post_init__()
        self.within("notes", self.notes, 8)

    def answer(self, asking: Asking, document: str, question: str, new: int) -> str:
        """A prompt for each part, and one for the answer."""
        frame = asking.tokens(_WORKER.format(part="", notes="", question=question))
        # Notes are read and written; they may grow a little when they are tokenised again.
        taken = frame + 2 * self.notes + self.notes // 4 + 8
        most = room_for("the text", asking.window, taken)
        notes = ""
        for part in pieces(asking.tokenizer, document, most):
            prompt = _WORKER.format(part=part, notes=notes or _NOTHING, question=question)
            notes = asking.ask(prompt, self.notes).strip() or notes
        return asking.ask(_MANAGER.format(notes=notes or _NOTHING, question=question), new)
