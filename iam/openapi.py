"""OpenAPI 3.1 from the routes: the values that the guard serves, so that the description cannot differ from them."""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from iam.bodies import RawBody
from iam.guard import Needs, Public, Route, SignedIn
from iam.responses import Speech

_REFERENCE = "#/components/schemas/{model}"
_VARIABLE = re.compile(r"\{(\w+)\}")
_PATTERN = re.compile(r"(\{\w+):[^}]*(?=\})")
_MODES = {"body": "validation", "answer": "serialization"}

_PROBLEM = {
    "type": "object",
    "description": "RFC 9457.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}


def describe(
    routes: Sequence[Route], *, version: str, server: str, elsewhere: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the OpenAPI document of `routes`, as served at `server`.

    Args:
        elsewhere: The servers of paths that have another one, by the beginning of the path.
    """
    bodies, answers = _models(routes)
    wanted = [(model, _MODES["body"]) for model in bodies] + [(model, _MODES["answer"]) for model in answers]
    references, definitions = models_json_schema(wanted, ref_template=_REFERENCE)  # type: ignore[arg-type]
    paths: dict[str, Any] = {}
    for route in routes:
        operation = _operation(route)
        if isinstance(route.body, type):
            schema = references[(route.body, "validation")]
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        elif isinstance(route.body, RawBody):
            content = {media: {"schema": {"type": "string"}} for media in route.body.media_types or ("*/*",)}
            operation["requestBody"] = {"required": True, "content": content}
        done: dict[str, Any] = {"description": HTTPStatus(route.status).phrase}
        if isinstance(route.answers, type):
            done["content"] = {"application/json": {"schema": references[(route.answers, "serialization")]}}
        elif isinstance(route.answers, str):
            done["content"] = {route.answers: {"schema": {"type": "string", "format": "binary"}}}
        operation["responses"] = {str(route.status): done, "default": {"$ref": _error_of(route)}}
        paths.setdefault(_shown(route.path), {})[route.method.lower()] = operation
    for path, operations in paths.items():
        for beginning, other in (elsewhere or {}).items():
            if path.startswith(beginning):
                operations["servers"] = [{"url": other}]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Doorward",
            "version": version,
            "description": "One identity for every device, gateway, person and program of an IoT fleet.",
        },
        "servers": [{"url": server}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "components": {
            "schemas": {**definitions.get("$defs", {}), "Problem": _PROBLEM},
            "responses": {
                "Problem": {
                    "description": "Refused.",
                    "content": {Speech.PROBLEM.value: {"schema": {"$ref": "#/components/schemas/Problem"}}},
                },
                "PlainProblem": {
                    "description": "Refused.",
                    "content": {Speech.PLAIN.value: {"schema": {"type": "string"}}},
                },
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "tags": [route.tag],
        "summary": route.summary,
        "description": _need(route),
        "operationId": f"{route.method.lower()}{_identifier(_shown(route.path))}",
        "parameters": [*_path_parameters(route), *_query_parameters(route)],
    }
    operation["security"] = [] if isinstance(route.need, Public) else [{"token": []}]
    return operation


def _need(route: Route) -> str:
    match route.need:
        case Needs(action, resource):
            return f"Needs `{action}` on `{resource}`."
        case SignedIn(because):
            return f"Needs any valid token: {because}."
        case Public(because):
            return f"Needs no token: {because}."


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    names = _VARIABLE.findall(_shown(route.path))
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    schema = route.query.model_json_schema(by_alias=True)
    required = schema.get("required", [])
    parameters = [
        {"name": name, "in": "query", "required": name in required, "schema": _inlined(one, schema)}
        for name, one in schema.get("properties", {}).items()
    ]
    if not isinstance(route.need, Public) and "{groupName}" not in route.path:
        described = "The group that the request speaks of: the caller's own, or one below it."
        parameters.append(
            {"name": "tenant", "in": "query", "required": False, "description": described, "schema": {"type": "string"}}
        )
    return parameters


def _inlined(one: Any, schema: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON
    """Replace references to the query model's own definitions by what they name."""
    if isinstance(one, dict):
        if "$ref" in one:
            return _inlined(schema["$defs"][one["$ref"].rpartition("/")[2]], schema)
        return {key: _inlined(value, schema) for key, value in one.items()}
    if isinstance(one, list):
        return [_inlined(value, schema) for value in one]
    return one


def _models(routes: Sequence[Route]) -> tuple[list[type[BaseModel]], list[type[BaseModel]]]:
    bodies = dict.fromkeys(route.body for route in routes if isinstance(route.body, type))
    answers = dict.fromkeys(route.answers for route in routes if isinstance(route.answers, type))
    return list(bodies), list(answers)


def _error_of(route: Route) -> str:
    name = "PlainProblem" if route.speaks is Speech.PLAIN else "Problem"
    return f"#/components/responses/{name}"


def _shown(path: str) -> str:
    """Return a path without the patterns of its variables."""
    return _PATTERN.sub(r"\1", path)


def _identifier(path: str) -> str:
    words = path.replace("{", "by-").replace("}", "").replace(".", "-").replace("/", "-").split("-")
    return "".join(word[:1].upper() + word[1:] for word in words if word)
