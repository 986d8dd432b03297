"""Which pages of keys a query reads."""

from lengthwise.extend.selectors.all_pages import AllPages
from lengthwise.extend.selectors.infllm import InfLLM
from lengthwise.extend.selectors.longcache import LongCache
from lengthwise.extend.selectors.longheads import LongHeads
from lengthwise.extend.selectors.quest import Quest

__all__ = ["AllPages", "InfLLM", "LongCache", "LongHeads", "Quest"]
