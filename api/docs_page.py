"""The reference as one HTML page, rendered from the OpenAPI document: no script, nothing loaded from elsewhere."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from html import escape
from typing import Any

import orjson

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d8dee4, #3d444d); --soft: light-dark(#f6f8fa, #161b22);
        --faint: light-dark(#57606a, #9198a1); --accent: light-dark(#0b6e4f, #4cc38a); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
code, pre { font: 0.85em/1.5 ui-monospace, monospace; }
pre { background: var(--soft); padding: 1rem; overflow: auto; }
details { border: 1px solid var(--line); border-radius: 6px; margin: 0.5rem 0; padding: 0.5rem 1rem; }
details details { border: 0; padding: 0; } summary { cursor: pointer; } h4 { margin: 1rem 0 0.25rem; }
.verb { display: inline-block; min-width: 4.5rem; font-weight: 700; color: var(--accent); }
.what, .roles { color: var(--faint); } .roles { float: right; font-size: 0.8em; }
table { border-collapse: collapse; width: 100%; font-size: 0.9em; } th { text-align: left; }
td, th { padding: 0.25rem 0.75rem 0.25rem 0; vertical-align: top; border-bottom: 1px solid var(--line); }
"""


def render(document: dict[str, Any]) -> str:
    """The page for an OpenAPI document."""
    info = document["info"]
    sections = "".join(_sections(document))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>"
        f'<h1>{escape(info["title"])}</h1><p class="what">Version {escape(info["version"])}, '
        'from <a href="/openapi.json">openapi.json</a></p>'
        f"{_text(info.get('description', ''))}{sections}<h2>Schemas</h2>{_schemas(document)}</body></html>"
    )


def _sections(document: dict[str, Any]) -> Iterator[str]:
    by_tag: defaultdict[str, list[str]] = defaultdict(list)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tag = operation.get("tags", ["other"])[0]
            by_tag[tag].append(_operation(method, path, operation))
    described = {tag["name"]: tag.get("description", "") for tag in document.get("tags", [])}
    for tag in [*described, *(by_tag.keys() - described.keys())]:
        if by_tag[tag]:
            heading = escape(tag.capitalize())
            yield f'<h2 id="{escape(tag)}">{heading}</h2>{_text(described.get(tag, ""))}{"".join(by_tag[tag])}'


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    roles = ", ".join(operation.get("x-roles", [])) or "public"
    return (
        f'<details><summary><span class="roles">{escape(roles)}</span>'
        f'<span class="verb">{method.upper()}</span><code>{escape(path)}</code> '
        f'<span class="what">{escape(operation.get("summary", ""))}</span></summary>'
        f"{_text(operation.get('description', ''))}"
        f"{_parameters(operation)}{_body(operation)}{_responses(operation)}"
        "</details>"
    )


def _parameters(operation: dict[str, Any]) -> str:
    rows = [
        (f"{each['name']} ({each['in']})", _type(each.get("schema", {})), each.get("description", ""))
        for each in operation.get("parameters", [])
    ]
    return f"<h4>Parameters</h4>{_table(rows)}" if rows else ""


def _body(operation: dict[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    rows = [(media_type, _type(each.get("schema", {})), "") for media_type, each in content.items()]
    return f"<h4>Body</h4>{_table(rows)}" if rows else ""


def _responses(operation: dict[str, Any]) -> str:
    rows = []
    for status, response in operation["responses"].items():
        content = response.get("content", {})
        types = ", ".join(_type(each.get("schema", {})) for each in content.values())
        codes = ", ".join(f"`{code}`" for each in content.values() for code in each.get("examples", {}))
        rows.append((status, types, codes or response.get("description", "")))
    return f"<h4>Answers</h4>{_table(rows)}"


def _schemas(document: dict[str, Any]) -> str:
    parts = []
    for name, schema in document["components"]["schemas"].items():
        source = orjson.dumps(schema, option=orjson.OPT_INDENT_2).decode()
        parts.append(
            f'<details id="schema-{escape(name)}"><summary><code>{escape(name)}</code> '
            f'<span class="what">{escape(schema.get("description", ""))}</span></summary>'
            f"<pre>{escape(source)}</pre></details>"
        )
    return "".join(parts)


def _type(schema: dict[str, Any]) -> str:
    """A schema in a word or two, as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return escape(" | ".join(str(each) for each in schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return escape(str(schema.get("type", "any")))


def _table(rows: list[tuple[str, str, str]]) -> str:
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{kind}</td><td>{_inline(text)}</td></tr>"
        for name, kind, text in rows
    )
    return f"<table>{cells}</table>"


def _text(text: str) -> str:
    return "".join(f"<p>{_inline(paragraph)}</p>" for paragraph in text.split("\n\n") if paragraph.strip())


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
