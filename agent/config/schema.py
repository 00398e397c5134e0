"""The configuration's JSON Schema, for editors."""

from __future__ import annotations

import json

from agent.config.models import Configuration


def json_schema() -> str:
    """JSON Schema (draft 2020-12) of the YAML file; rules that need more than one key are not in it."""
    schema = Configuration.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "molehill.yaml"
    # The bare form of a notify entry, which the models take before pydantic looks.
    schema["properties"]["notify"]["items"] = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/NotifyRange"}]}
    return json.dumps(schema, indent=2)
