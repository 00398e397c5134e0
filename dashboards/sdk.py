"""What the generator takes from the SDK: the classic dashboard format, which is the one that Grafana 10 reads."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # The SDK would rather write the format of Grafana 12.
    from grafana_foundation_sdk.builders import (
        bargauge,
        common,
        prometheus,
        stat,
        statetimeline,
        table,
        text,
        timeseries,
    )
    from grafana_foundation_sdk.builders import dashboard as build
    from grafana_foundation_sdk.cog.builder import Builder
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models import common as choice
    from grafana_foundation_sdk.models import dashboard as model
    from grafana_foundation_sdk.models import units
    from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode
    from grafana_foundation_sdk.models.text import TextMode

    register_default_plugins()

__all__ = [
    "Builder",
    "JSONEncoder",
    "PromQueryFormat",
    "QueryEditorMode",
    "TextMode",
    "bargauge",
    "build",
    "choice",
    "common",
    "model",
    "prometheus",
    "stat",
    "statetimeline",
    "table",
    "text",
    "timeseries",
    "units",
]
