"""A flat table of settings, read strictly.

1. Every key is known: an unknown one is refused, and the nearest known one named.
2. Every key that is asked for is there, and of the asked type; true is no number. A number lies
   within the bounds that are asked for.
3. A word is one of the listed words, a list of words holds none twice; a foreign word is refused, and the nearest known
   one named.
"""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import TypeVar

from certs.errors import ProfileRefused

Value = TypeVar("Value", bool, int, str)
Meaning = TypeVar("Meaning")


class StrictTable:
    """The settings of a file, taken from it one by one."""

    def __init__(self, settings: Mapping[str, object], known: Collection[str]) -> None:
        """Take the settings, all of them `known`.

        Raises:
            ProfileRefused: at the first unknown key.
        """
        for key in settings:
            if key not in known:
                raise ProfileRefused(f"unknown key {key!r}{_nearest(key, known)}")
        self._settings = settings

    def take(self, key: str, kind: type[Value]) -> Value:
        """Return the value of `key`, which is of type `kind`.

        Raises:
            ProfileRefused: if it is missing or of another type.
        """
        value = self._value(key)
        if type(value) is not kind:
            raise ProfileRefused(f"{key} is {value!r}, and not of type {kind.__name__}")
        return value

    def take_number(self, key: str, least: int, most: int) -> int:
        """Return the number at `key`, which lies between `least` and `most`, both included.

        Raises:
            ProfileRefused: if it is missing, no whole number, or outside.
        """
        number = self.take(key, int)
        if not least <= number <= most:
            raise ProfileRefused(f"{key} is {number}, and not between {least} and {most}")
        return number

    def take_word(self, key: str, meanings: Mapping[str, Meaning]) -> Meaning:
        """Return what the word at `key` means.

        Raises:
            ProfileRefused: if it is missing or none of the listed words.
        """
        return _meaning(key, self._value(key), meanings)

    def take_words(self, key: str, meanings: Mapping[str, Meaning]) -> tuple[Meaning, ...]:
        """Return what the words of the list at `key` mean, in their order.

        Raises:
            ProfileRefused: if it is missing, no list, or holds a word twice or one that is not listed.
        """
        words = self._value(key)
        if not isinstance(words, list):
            raise ProfileRefused(f"{key} is {words!r}, and not a list")
        found = tuple(_meaning(key, word, meanings) for word in words)
        if len(set(words)) != len(words):
            raise ProfileRefused(f"{key} lists a word twice")
        return found

    def _value(self, key: str) -> object:
        if key not in self._settings:
            raise ProfileRefused(f"{key} is missing")
        return self._settings[key]


def _meaning(key: str, word: object, meanings: Mapping[str, Meaning]) -> Meaning:
    if not isinstance(word, str):
        raise ProfileRefused(f"{key} holds {word!r}, and not a word")
    if word not in meanings:
        raise ProfileRefused(f"{key} holds {word!r}{_nearest(word, meanings)}; known are {', '.join(meanings)}")
    return meanings[word]


def _nearest(word: str, known: Collection[str]) -> str:
    nearest = get_close_matches(word, known, n=1)
    return f", the nearest known is {nearest[0]!r}" if nearest else ""
