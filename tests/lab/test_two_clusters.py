"""Two clusters' agents on one machine, in one network namespace: each minds its own addresses."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agent.lab import processes
from tests.lab.clusters import cluster, document, events, on, overrides, rewrite, until

pytestmark = pytest.mark.lab

NODE = "www1"
OTHERS_VIP = "10.72.9.9"


def test_a_second_agent_takes_nothing_away(lab_name: str) -> None:
    with cluster(lab_name, 1, 2) as lab:
        before = on(lab, NODE)
        told = document(lab) | {"cluster": "other", "vips": [{"addresses": [f"eth0:{OTHERS_VIP}/16"]}]}
        beside = lab.directory / "beside"
        beside.mkdir()
        own = overrides(
            *(f"control={beside}/control.sock", f"state_dir={beside}", "mature=200ms"),
            *("http.listen=127.0.0.1:9749", "engine.port=7777"),
        )
        line = ["ip", "netns", "exec", lab.plan.namespace(NODE), sys.executable, "-P", "-m", "agent", "run"]
        line += ["--config", str(rewrite(lab, told, "other.yaml")), "--node", NODE, *own]
        with (beside / "log").open("w") as log:
            other = subprocess.Popen(line, cwd=processes.PACKAGE_ROOT, stdout=log, stderr=log)

        def serves() -> bool:
            return "event=vip_acquired" in (beside / "log").read_text()

        try:
            until(serves, why=(beside / "log").read_text)
            assert on(lab, NODE) == before
            assert [each for each in events(lab, NODE) if each["type"] == "vip_lost"] == []
        finally:
            other.terminate()
            other.wait(30)
        assert on(lab, NODE) == before, "nor at its end"
        assert [each for each in events(lab, NODE) if each["type"] in ("vip_lost", "lease_lost")] == []
