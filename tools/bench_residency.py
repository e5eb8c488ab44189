"""How long a residency verdict takes, and searching a text: `python -m tools.bench_residency`.

The policy is larger than a person writes: 40 rules, 10 endpoints. Times are the medians of rounds, in
microseconds of this process's own CPU time.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable

from offload.residency import Endpoint, Evaluator, Facts, Policy, Rule
from offload.residency.detect import find, make_detectors
from offload.residency.labels import DETECTED

TEXT = "could you move the meeting with the design team to next thursday and tell them about it, please, now "


def big_policy(rules: int = 40, endpoints: int = 10) -> Policy:
    rng = random.Random(1)
    places = ("DE", "FR", "US", "IN", "BR")
    found = [
        Rule(
            f"r{i}",
            "permit" if i % 2 else "forbid",
            tuple(rng.sample(DETECTED, 3)),
            jurisdictions=(rng.choice(("EU", *places)),),
            regions=rng.choice(((), ("r1*",))),
        )
        for i in range(rules - 2)
    ]
    found += [
        Rule("ask", "require", ("health",), consent=True),
        Rule("short", "require", ("pii",), retain_h=24),
    ]
    servers = tuple(Endpoint(f"e{i}", f"r{i}", (rng.choice(places),), "o", "tls") for i in range(endpoints))
    return Policy(servers, tuple(found))


def microseconds(work: Callable[[], object], count: int, rounds: int = 7) -> float:
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(count):
            work()
        taken.append((time.process_time() - start) / count * 1e6)
    return statistics.median(taken)


def main() -> None:
    evaluator, rng = Evaluator(big_policy()), random.Random(2)
    queries = [Facts(frozenset(rng.sample(DETECTED, rng.randrange(4)))) for _ in range(200)]
    detectors = make_detectors(contacts=[f"First{i} Last{i}" for i in range(500)])
    result = {
        "verdict_us": microseconds(lambda: [evaluator.verdict(q) for q in queries], 5) / len(queries),
        "search_100_characters_us": microseconds(lambda: find(TEXT, detectors), 50),
        "search_4000_characters_us": microseconds(lambda: find(TEXT * 40, detectors), 2),
    }
    print(json.dumps({name: round(value, 1) for name, value in result.items()}, indent=1))
    if result["verdict_us"] > 50:
        sys.exit("a verdict takes more than the 50 µs that are promised")


if __name__ == "__main__":
    main()
