"""A configuration as YAML."""

from __future__ import annotations

from typing import Any

import yaml

from agent.config.models import Configuration, NotifyRange


def to_yaml(configuration: Configuration) -> str:
    """The keys that were set, in the order of docs/configuration.md; loads again to an equal configuration."""
    data: dict[str, Any] = configuration.model_dump(mode="json", exclude_unset=True)
    data |= {"node": configuration.node}
    for index, item in enumerate(configuration.notify):
        if isinstance(item, NotifyRange) and item.throttle is None:
            data["notify"][index] = str(item.range)
    ordered = {key: data[key] for key in Configuration.model_fields if key in data}
    text: str = yaml.safe_dump(ordered, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    return text
