"""What the core is given, from the configuration."""

from __future__ import annotations

import hashlib
import json

from agent.config.models import Configuration
from agent.config.models import Vip as VipModel
from agent.config.rules import fast_lease
from agent.config.values import InterfaceAddress
from agent.core.ids import NodeName, VipName
from agent.core.settings import Address, PartitionPolicy, Settings, Timing, Vip


def core_settings(configuration: Configuration) -> Settings:
    """The core's settings."""
    engine, balance = configuration.engine, configuration.balance
    most = balance.acquisitions_per_round
    return Settings(
        cluster=configuration.cluster,
        node=NodeName(configuration.node),
        vips=tuple(_vip(vip) for vip in configuration.pool),
        members=tuple(NodeName(name) for name in sorted(engine.members)),
        timing=Timing(
            heartbeat=engine.heartbeat,
            failure_timeout=engine.failure_timeout,
            mature=configuration.mature,
            balance_interval=balance.interval,
            announce_refresh=configuration.announce.refresh,
        ),
        acquisitions_per_round=most if isinstance(most, int) else None,
        weight=configuration.weight,
        serves=configuration.vips is not False,
        partition=PartitionPolicy(configuration.partition),
        votes=tuple((NodeName(name), votes) for name, votes in sorted(configuration.votes.items())),
        digest=digest(configuration),
        lease_bound=fast_lease(configuration),
    )


def digest(configuration: Configuration) -> str:
    """Hash of the cluster-wide settings: equal on all nodes that are configured alike.

    Interfaces, prefixes and preferences are each node's own; a vote of 1 is what a member has unless told otherwise.
    """
    engine = configuration.engine
    shared = {
        "cluster": configuration.cluster,
        "vips": [
            [vip.name, [str(entry.address) for entry in vip.addresses], sorted(vip.nodes)]
            for vip in sorted(configuration.pool, key=lambda vip: vip.name)
        ],
        "partition": configuration.partition,
        "votes": sorted((name, votes) for name, votes in configuration.votes.items() if votes != 1),
        "balance": [configuration.balance.acquisitions_per_round, configuration.balance.interval],
        "mature": configuration.mature,
        "heartbeat": engine.heartbeat,
        "failure_timeout": engine.failure_timeout,
        "lease": fast_lease(configuration),
    }
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:16]


def _vip(vip: VipModel) -> Vip:
    return Vip(
        name=VipName(vip.name),
        addresses=tuple(_address(entry) for entry in vip.addresses),
        prefer=tuple(NodeName(name) for name in vip.prefer),
        nodes=tuple(NodeName(name) for name in vip.nodes),
    )


def _address(entry: InterfaceAddress) -> Address:
    # A configuration without interfaces is refused on loading.
    return Address(entry.interface or "", str(entry.address), entry.prefix, str(entry.network))
