"""Which keys are kept, in what form and where."""

from lengthwise.extend.stores.full import FullStore
from lengthwise.extend.stores.streaming_llm import StreamingLLM

__all__ = ["FullStore", "StreamingLLM"]
