"""MQTT topics and NATS subjects: the same name in two spellings, as nats-server spells it.

1. A level is a token: `/` between levels becomes `.` between tokens.
2. An empty level becomes the token `/`; `.` within a level becomes `//`.
3. In a filter `+` becomes `*`, and `#` becomes `>`.
4. `a/#` matches `a` too in MQTT (3.1.1 4.7.1.2), and `a.>` does not match `a` in NATS: such a filter is two subjects.
5. What NATS would read otherwise than MQTT (`*` and `>`, white space, control characters, a wildcard that is not a
   whole level) is refused: nothing but a whole `+` or a last `#` ever becomes a wildcard.
"""

import re
from functools import lru_cache

from iam.errors import malformed

_TWO_WAYS_TO_READ = re.compile(r"[\x00-\x20\x7f-\x9f*>+#]")


def filter_subjects(topic_filter: str) -> tuple[str, ...]:
    """Return the NATS subjects that an MQTT filter subscribes to, one or two (rule 4); raise `Refused` (malformed)."""
    levels = _levels(topic_filter)
    last = levels[-1]
    tokens = ["*" if level == "+" else _token(level) for level in levels[:-1]]
    if last == "#":
        return (".".join([*tokens, ">"]), ".".join(tokens)) if tokens else (">",)
    tokens.append("*" if last == "+" else _token(last))
    return (".".join(tokens),)


def _levels(topic: str) -> list[str]:
    if not topic:
        raise malformed("A topic is not empty.")
    return topic.split("/")


@lru_cache(maxsize=16_384)
def _token(level: str) -> str:
    if _TWO_WAYS_TO_READ.search(level):
        raise malformed("This topic has a level that NATS and MQTT read in two ways.")
    return level.replace(".", "//") or "/"
