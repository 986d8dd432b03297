"""Words of Chinese text without punctuation, as LongBench and LV-Eval count them."""

import string

from lengthwise.measure.published.base import segmented

_PUNCTUATION = {
    *string.punctuation,
    *"！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟",
    *"〰〾〿–—‘’‛“”„‟…‧﹏",
}


def plain_words(text: str) -> list[str]:
    """Chinese words in lower case without punctuation and blanks.

    Raises:
        ValueError: The segmenter is not installed.
    """
    words = ("".join(c for c in word.lower() if c not in _PUNCTUATION) for word in segmented(text))
    return [joined for word in words if (joined := "".join(word.split()))]
