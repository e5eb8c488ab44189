"""Recorded outcomes replayed over networks, device profiles and budgets, thousands of devices at once.

Knows: pools of queries with the outcome of both models, links over time, measured speeds of boards, episodes,
and policies to compare. Does not know: models, sockets, clocks; nothing here answers or sends anything.
"""

from offload.simulate.devices import PROFILES, DeviceProfile, Measurement, ModelSize, read_profile
from offload.simulate.network import NETWORKS, LinkState, NetworkModel, Traces, read_trace, write_trace
from offload.simulate.policies import (
    CloudOnly,
    ExpectedUtility,
    Fixed,
    Hindsight,
    LocalOnly,
    Random,
    Threshold,
)
from offload.simulate.workload import CLOUD, CloudProfile, Pool, pool_from_outcomes, synthetic_pool
from offload.simulate.world import Policy, Run, Scenario, Step, Summary, View, World

__all__ = [
    "CLOUD",
    "NETWORKS",
    "PROFILES",
    "CloudOnly",
    "CloudProfile",
    "DeviceProfile",
    "ExpectedUtility",
    "Fixed",
    "Hindsight",
    "LinkState",
    "LocalOnly",
    "Measurement",
    "ModelSize",
    "NetworkModel",
    "Policy",
    "Pool",
    "Random",
    "Run",
    "Scenario",
    "Step",
    "Summary",
    "Threshold",
    "Traces",
    "View",
    "World",
    "pool_from_outcomes",
    "read_profile",
    "read_trace",
    "synthetic_pool",
    "write_trace",
]
