"""The examples in docs/configuration.md are configurations, and it names every key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.config.load import load
from agent.config.models import Configuration, Engine

DOCS = Path(__file__).parent.parent.parent / "docs"
TEXT = (DOCS / "configuration.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_load(number: int, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef")
    secret.chmod(0o600)
    path = tmp_path / "molehill.yaml"
    path.write_text(EXAMPLES[number].replace("/etc/molehill/secret", str(secret)))
    assert load(path, node="www1").configuration.pool
    assert len(EXAMPLES) >= 2


def test_every_key_is_documented() -> None:
    keys = set(Configuration.model_fields) - {"engine"} | {f"engine.{key}" for key in Engine.model_fields}
    assert {key for key in keys if f"`{key}" not in TEXT} == set()
