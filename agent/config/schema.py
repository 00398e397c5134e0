"""The configuration's JSON Schema, for editors."""

from __future__ import annotations

import json
from typing import Any

from agent.config.models import Configuration
from agent.config.values import format_duration


def json_schema() -> str:
    """JSON Schema (draft 2020-12) of the YAML file; rules that need more than one key are not in it."""
    schema = Configuration.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "molehill.yaml"
    # The bare form of a notify entry, which the models take before pydantic looks.
    schema["properties"]["notify"]["items"] = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/NotifyRange"}]}
    _write_durations(schema)
    return json.dumps(schema, indent=2)


def _write_durations(node: Any) -> None:
    """Defaults of durations as a file says them: pydantic gives the number behind a validator as it is."""
    if isinstance(node, list):
        for item in node:
            _write_durations(item)
    elif isinstance(node, dict):
        if isinstance(node.get("default"), float) and "pattern" in node:
            node["default"] = format_duration(node["default"])
        for item in node.values():
            _write_durations(item)
