"""Which pages of keys a query reads."""

from lengthwise.extend.selectors.all_pages import AllPages
from lengthwise.extend.selectors.infllm import InfLLM
from lengthwise.extend.selectors.longcache import LongCache
from lengthwise.extend.selectors.longheads import LongHeads

__all__ = ["AllPages", "InfLLM", "LongCache", "LongHeads"]
