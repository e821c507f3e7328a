"""What bodies and queries are made of: pydantic models that refuse what they do not know."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """A body or a query: frozen, camelCase outside, and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, alias_generator=to_camel)


class NoQuery(Model):
    """A query string that may hold nothing but what the guard itself reads."""


class Shown(BaseModel):
    """What an answer shows: camelCase outside; what is None is left out."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, alias_generator=to_camel)
