"""The page on which to read the API's description: made on the server, with no script and nothing from elsewhere."""

from html import escape
from typing import Any

API_CSP = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #0a7; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .5rem 0; padding: .4rem .8rem }
summary { cursor: pointer } code, pre { font: 13px/1.5 ui-monospace, monospace } code { overflow-wrap: anywhere }
pre { background: var(--soft); padding: .6rem; border-radius: .4rem; overflow-x: auto }
.method { display: inline-block; min-width: 4.8rem; font-weight: 700; color: var(--accent) }
.what { opacity: .8; margin-left: .8rem } table { border-collapse: collapse; display: block; overflow-x: auto }
td, th { text-align: left; padding: .15rem 1rem .15rem 0; vertical-align: top }
nav a { display: inline-block; margin-right: 1rem }
"""


def api_page(description: dict[str, Any]) -> str:
    """Return the page of an OpenAPI description, in HTML."""
    sections: dict[str, list[str]] = {tag["name"]: [] for tag in description["tags"]}
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            if method == "servers":
                continue
            sections[operation["tags"][0]].append(_operation(path, method, operation, description))
    links = "".join(f'<a href="#{_anchor(tag)}">{escape(tag)}</a>' for tag in sections)
    body = "".join(f'<h2 id="{_anchor(tag)}">{escape(tag)}</h2>{"".join(ones)}' for tag, ones in sections.items())
    info = description["info"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{escape(info['title'])} API</h1><p>{escape(info['description'])} "
        f'The same for programs: <a href="/openapi.json">openapi.json</a>.</p><nav>{links}</nav>{body}</html>'
    )


def _operation(path: str, method: str, operation: dict[str, Any], description: dict[str, Any]) -> str:
    parts = [f"<p>{_marked(operation['description'])}</p>"]
    if operation["parameters"]:
        rows = "".join(_parameter(one) for one in operation["parameters"])
        parts.append(f"<table><tr><th>Parameter<th>In<th>Type<th>About</tr>{rows}</table>")
    if "requestBody" in operation:
        parts.append(_content("Body", operation["requestBody"], description))
    for status, answer in operation["responses"].items():
        if status != "default":
            parts.append(_content(f"Answer {status}", answer, description))
    return (
        f'<details><summary><span class="method">{method.upper()}</span> <code>{escape(path)}</code>'
        f'<span class="what">{escape(operation["summary"])}</span></summary>{"".join(parts)}</details>'
    )


def _parameter(one: dict[str, Any]) -> str:
    about = one.get("description") or one["schema"].get("description", "")
    needed = "" if one["required"] or one["in"] == "path" else " (optional)"
    return (
        f"<tr><td><code>{escape(one['name'])}</code>{needed}<td>{escape(one['in'])}"
        f"<td>{escape(_type(one['schema']))}<td>{_marked(about)}</tr>"
    )


def _content(title: str, part: dict[str, Any], description: dict[str, Any]) -> str:
    if "content" not in part:
        return f"<p><b>{escape(title)}</b>: {escape(part.get('description', ''))}, no body.</p>"
    shown = []
    for media, content in part["content"].items():
        schema = _resolved(content["schema"], description)
        lines = _fields(schema, description, 0) or [_type(schema)]
        shown.append(f"<p><b>{escape(title)}</b>: {escape(media)}</p><pre>{escape(chr(10).join(lines))}</pre>")
    return "".join(shown)


def _fields(schema: dict[str, Any], description: dict[str, Any], depth: int) -> list[str]:
    lines = []
    required = schema.get("required", [])
    for name, raw in schema.get("properties", {}).items():
        field = _resolved(raw, description)
        about = raw.get("description") or ""
        optional = "" if name in required else "?"
        lines.append(f"{'  ' * depth}{name}{optional}: {_type(raw)}{'   ' + about if about else ''}".rstrip())
        inner = _resolved(field.get("items", field), description)
        if inner.get("properties") and depth < 3:  # noqa: PLR2004 - deep enough to read
            lines += _fields(inner, description, depth + 1)
    return lines


def _resolved(schema: dict[str, Any], description: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        found: dict[str, Any] = description["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return found
    return schema


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " | ".join(_type(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return " | ".join(f'"{one}"' for one in schema["enum"])
    if schema.get("type") == "array":
        return f"[{_type(schema.get('items', {}))}]"
    return str(schema.get("format") or schema.get("type") or "any")


def _marked(text: str) -> str:
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))


def _anchor(tag: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in tag.lower())
