"""Words of Chinese text without punctuation, as LongBench and LV-Eval count them."""

import string

from lengthwise.measure.published.base import segmented

_PUNCTUATION = {
    *string.punctuation,
    *"！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟",
    *"〰〾〿–—‘’‛“”„‟…‧﹏",
}


def plain_word(word: str) -> str:
    """A word in lower case without punctuation and blanks; may be empty."""
    return "".join("".join(c for c in word.lower() if c not in _PUNCTUATION).split())


def plain_words(text: str) -> list[str]:
    """Chinese words in lower case without punctuation and blanks.

    Raises:
        ValueError: The segmenter is not installed.
    """
    return [plain for word in segmented(text) if (plain := plain_word(word))]
