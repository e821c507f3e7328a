"""A flat table of settings, read strictly.

1. Every key is known: an unknown one is refused, and the nearest known one named.
2. Every key that is asked for is there, and of the asked type; true is no number. A number lies
   within the bounds that are asked for.
3. A word is one of the listed words, a list of words holds none twice; a foreign word is refused, and the nearest known
   one named. An object identifier is dotted, as X.660 has it.
4. A moment is a date and time with its offset (RFC 3339); a period is one of `certs.duration`.
"""

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import TypeVar

from cryptography import x509

from certs.duration import read_duration
from certs.errors import ProfileRefused

Value = TypeVar("Value", bool, int, str)
Meaning = TypeVar("Meaning")

_OBJECT_IDENTIFIER = re.compile(r"[0-2](\.(0|[1-9][0-9]{0,17})){1,31}")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9:.]{8,15}([Zz]|[+-][0-9]{2}:[0-9]{2})")


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

    def take_period(self, key: str) -> timedelta | datetime:
        """Return the period at `key`, or the moment, in UTC, where it says one.

        Raises:
            ProfileRefused: if it is missing or neither.
        """
        text = self.take(key, str)
        if _MOMENT.fullmatch(text):
            try:
                return datetime.fromisoformat(text.upper()).astimezone(UTC)
            except (ValueError, OverflowError) as error:
                raise ProfileRefused(f"{key} is a moment that there is not: {text}") from error
        try:
            return read_duration(text)
        except ProfileRefused as refused:
            raise ProfileRefused(f"{key}: {refused.reason}") from refused

    def take_object_identifiers(
        self, key: str, meanings: Mapping[str, x509.ObjectIdentifier]
    ) -> tuple[x509.ObjectIdentifier, ...]:
        """Return the object identifiers of the list at `key`, each dotted or one of the listed words.

        Raises:
            ProfileRefused: if it is missing, no list, or holds one twice or something else.
        """
        words = self._list(key)
        found = tuple(
            x509.ObjectIdentifier(word)
            if isinstance(word, str) and _OBJECT_IDENTIFIER.fullmatch(word)
            else _meaning(key, word, meanings)
            for word in words
        )
        if len(set(found)) != len(found):
            raise ProfileRefused(f"{key} lists one twice")
        return found

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
        found = tuple(_meaning(key, word, meanings) for word in self._list(key))
        if len(set(found)) != len(found):
            raise ProfileRefused(f"{key} lists a word twice")
        return found

    def _list(self, key: str) -> list[object]:
        words = self._value(key)
        if not isinstance(words, list):
            raise ProfileRefused(f"{key} is {words!r}, and not a list")
        return words

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
