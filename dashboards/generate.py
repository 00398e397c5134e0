"""From the three dashboards to text: numbered, lettered, sorted, so that equal sources give equal files."""

from __future__ import annotations

import json
from typing import Any

from dashboards import FILES, cluster, failover, node
from dashboards.panels import LETTERS
from dashboards.sdk import JSONEncoder

SCHEMA = 38
"""Grafana 10.0's. Newer ones migrate what is older; nothing migrates what is newer than itself."""


def generate() -> dict[str, str]:
    """The text of each file by its name."""
    texts = {}
    for name, made in zip(FILES, (cluster.dashboard(), node.dashboard(), failover.dashboard()), strict=True):
        document = json.loads(json.dumps(made.build(), cls=JSONEncoder))
        document["schemaVersion"] = SCHEMA
        _mend(document)
        texts[name] = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return texts


def _mend(document: dict[str, Any]) -> None:
    """What the SDK does not do: refIds, by which a panel's queries are told apart, and links and annotations in sight.

    Its default for both would put them into a menu of Grafana 12.
    """
    for panel in document["panels"]:
        for letter, target in zip(LETTERS, panel.get("targets", []), strict=False):
            target["refId"] = letter
        panel.pop("repeatDirection", None)
    links = [
        link
        for panel in document["panels"]
        for link in panel.get("fieldConfig", {}).get("defaults", {}).get("links", [])
    ]
    for shown in (*document["links"], *document["annotations"]["list"], *links):
        shown.pop("placement", None)
