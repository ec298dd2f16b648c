"""The stem of an English word (Porter 1980, "An algorithm for suffix stripping", Program 14(3)): METEOR's second way to match words."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

_SECOND = {
    "ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize", "abli": "able", "alli": "al", "entli": "ent",
    "eli": "e", "ousli": "ous", "ization": "ize", "ation": "ate", "ator": "ate", "alism": "al", "iveness": "ive", "fulness": "ful",
    "ousness": "ous", "aliti": "al", "iviti": "ive", "biliti": "ble",
}  # fmt: skip
_THIRD = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}
_FOURTH = {
    "al": "", "ance": "", "ence": "", "er": "", "ic": "", "able": "", "ible": "", "ant": "", "ement": "", "ment": "", "ent": "", "ion": "",
    "ou": "", "ism": "", "ate": "", "iti": "", "ous": "", "ive": "", "ize": "",
}  # fmt: skip


def _vowels(stem: str) -> list[bool]:
    """Which letters are vowels: a y after a consonant is one."""
    found: list[bool] = []
    for letter in stem:
        found.append(letter in "aeiou" or (letter == "y" and bool(found) and not found[-1]))
    return found


def _measure(stem: str) -> int:
    """m of [C](VC){m}[V]."""
    kinds = _vowels(stem)
    return sum(a and not b for a, b in pairwise(kinds))


def _short(stem: str) -> bool:
    """*o: it ends consonant, vowel, consonant, the last of them no w, x or y."""
    return _vowels(stem)[-3:] == [False, True, False] and stem[-1] not in "wxy"


def _doubled(stem: str) -> bool:
    return len(stem) > 1 and stem[-1] == stem[-2] and not _vowels(stem)[-1]


def _replace(word: str, rules: dict[str, str], least: int) -> str:
    """By the rule of the longest ending that the word has, where the measure of what is left is at least this."""
    ending = max((e for e in rules if word.endswith(e)), key=len, default=None)
    if ending is None:
        return word
    stem = word.removesuffix(ending)
    if _measure(stem) < least or (ending == "ion" and not stem.endswith(("s", "t"))):
        return word
    return stem + rules[ending]


@lru_cache(maxsize=1 << 14)
def stem(word: str) -> str:
    """The stem of a word in small letters.

    >>> [stem(w) for w in ("effusions", "enlarged", "consolidation", "relational")]
    ['effus', 'enlarg', 'consolid', 'relat']
    """
    if len(word) < 3:
        return word
    word = _replace(word, {"sses": "ss", "ies": "i", "ss": "ss", "s": ""}, 0)
    if word.endswith("eed"):
        word = _replace(word, {"eed": "ee"}, 1)
    elif (ending := next((e for e in ("ed", "ing") if word.endswith(e)), None)) and any(
        _vowels(word.removesuffix(ending))
    ):
        word = word.removesuffix(ending)
        if word.endswith(("at", "bl", "iz")):
            word += "e"
        elif _doubled(word) and word[-1] not in "lsz":
            word = word[:-1]
        elif _measure(word) == 1 and _short(word):
            word += "e"
    if word.endswith("y") and any(_vowels(word[:-1])):
        word = word[:-1] + "i"
    for rules, least in ((_SECOND, 1), (_THIRD, 1), (_FOURTH, 2)):
        word = _replace(word, rules, least)
    if word.endswith("e"):
        left = word[:-1]
        if _measure(left) > 1 or (_measure(left) == 1 and not _short(left)):
            word = left
    return word[:-1] if word.endswith("ll") and _measure(word) > 1 else word
