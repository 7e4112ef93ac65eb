"""Compare free text with accepted expansions: one normalisation for data, lint and evaluation."""

import re
import unicodedata

LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def holds_half_character(value: str | list) -> bool:
    """Whether text or messages hold a lone surrogate, which no file or tokenizer can write."""
    return LONE_SURROGATE.search(value if isinstance(value, str) else str(value)) is not None


def normalise(text: str) -> str:
    """Fold spelling variants that do not change the meaning.

    NFKC, lower case, hyphens and slashes to spaces, other punctuation dropped, spaces collapsed,
    the plural s of the last word dropped ("Drill-Pipes." -> "drill pipe").
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub(r"[-/‐-―]", " ", text)
    words = re.sub(r"[^\w\s]", "", text).split()
    if words and len(words[-1]) > 3 and words[-1].endswith("s") and not words[-1].endswith("ss"):
        words[-1] = words[-1][:-1]
    return " ".join(words)


def find_phrase(phrase: str, text: str) -> int:
    """Word offset of `phrase` in `text` after normalisation, or -1; plurals of its last word match.

    "oil" is not found in "soil", "drill pipe" is found in "two drill-pipes lay there".
    """
    needle, hay = normalise(phrase).split(), normalise(text).split()
    if not needle:
        return -1
    ends = {needle[-1], needle[-1] + "s"}
    for start in range(len(hay) - len(needle) + 1):
        window = hay[start : start + len(needle)]
        if window[:-1] == needle[:-1] and window[-1] in ends:
            return start
    return -1


def contains_phrase(phrase: str, text: str) -> bool:
    """Whether `phrase` appears in `text` as whole words, both normalised."""
    return find_phrase(phrase, text) >= 0
