"""One run: start everything, measure the targets in turns, stop everything."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench.gateway_target import COST_PICO_USD, Gateway
from bench.load import Job, Outcome
from bench.processes import ALL_CPUS, PYTHON, Child, pin, split_cpus
from bench.scenarios import Scenario
from bench.targets import Direct, Echo, Nginx, Target

SATURATED = 0.95
"""Share of a core from which on the harness, not the target, may have decided the throughput."""


@dataclass(frozen=True, slots=True)
class Plan:
    scenarios: Sequence[Scenario]
    targets: Sequence[str]
    rounds: int
    seconds: float
    count: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One job on one target: its outcome, and what it cost the target."""

    scenario: str
    target: str
    round: int
    cpu_us: float
    """Processor time of the target per request, with the work that requests left behind for later."""
    harness_share: float
    """Of its core, taken by load generator and mock upstream together."""
    outcome: Outcome


@dataclass(slots=True)
class Result:
    """All samples of a run, and the checks of its end."""

    samples: list[Sample] = field(default_factory=list)
    rss_mb: dict[str, dict[str, float]] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    ledger: dict[str, int] | None = None
    load_average: float = 0.0
    """Of the machine in the minute before the run: what others were doing on it."""

    @property
    def problems(self) -> list[str]:
        """Why these figures must not be believed; empty when they may."""
        found = [
            f"{sample.target}, {sample.scenario}: {sample.outcome.errors} errors, first: {sample.outcome.first_error}"
            for sample in self.samples
            if sample.outcome.errors
        ]
        if self.ledger is not None:
            sent = self.requests["gateway"]
            expected = {"rows": sent, "with_provider_usage": sent, "cost_pico_usd": sent * COST_PICO_USD}
            if self.ledger != expected:
                found.append(f"the ledger holds {self.ledger} and should hold {expected}")
        return found


class Bench:
    """The running processes of one run and what has been sent to each target."""

    def __init__(self, load: Child, direct: Direct, targets: list[Target]) -> None:
        self.load = load
        self.direct = direct
        self.targets = targets
        self.sent = {target.name: 0 for target in targets}

    def perform(self, job: Job, target: Target) -> Outcome:
        outcome = msgspec.json.decode(self.load.ask(msgspec.json.encode(job)), type=Outcome)
        self.sent[target.name] += outcome.sent
        if not outcome.errors:
            target.settle(self.sent[target.name])
        return outcome

    def measure(self, scenario: Scenario, target: Target, *, plan: Plan, number: int) -> Sample:
        job = scenario.job(port=target.port, key=target.key, seconds=plan.seconds, count=plan.count)
        cpu, upstream_cpu = target.cpu_seconds(), self.direct.cpu_seconds()
        outcome = self.perform(job, target)
        cpu, upstream_cpu = target.cpu_seconds() - cpu, self.direct.cpu_seconds() - upstream_cpu
        return Sample(
            scenario=scenario.name,
            target=target.name,
            round=number,
            cpu_us=round(cpu / max(outcome.sent, 1) * 1e6, 2),
            harness_share=round(outcome.cpu_share + upstream_cpu / outcome.seconds, 3),
            outcome=outcome,
        )

    def place(self, scenario: Scenario) -> None:
        """Under full load the target has a CPU for itself; at low load the scheduler decides."""
        target_cpus, harness_cpus = (ALL_CPUS, ALL_CPUS) if scenario.latency_matters else split_cpus()
        pin(self.load.pid, harness_cpus)
        for target in self.targets:
            target.pin(harness_cpus if target is self.direct else target_cpus)

    def warm_up(self, scenarios: Sequence[Scenario]) -> None:
        for target in self.targets:
            for stream in sorted({scenario.stream for scenario in scenarios}):
                self.perform(Job(port=target.port, key=target.key, stream=stream, connections=8, seconds=0.3), target)


@contextmanager
def started(names: Sequence[str]) -> Iterator[Bench]:
    """Start the harness and the targets; stop them all, whatever happens."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-")))
        direct = Direct.start()
        stack.callback(direct.stop)
        load = stack.enter_context(Child([PYTHON, "-m", "bench.load"], talks=True))
        starters: dict[str, Callable[[], Target]] = {
            "echo": Echo.start,
            "nginx": lambda: Nginx.start(folder=folder / "nginx", upstream_port=direct.port),
            "gateway": lambda: Gateway.start(folder=folder / "gateway", upstream_port=direct.port),
        }
        targets: list[Target] = [direct]
        for name, start in starters.items():
            if name in names:
                target = start()
                stack.callback(target.stop)
                targets.append(target)
        yield Bench(load, direct, targets)


def measure(plan: Plan, *, say: Callable[[str], None]) -> Result:
    """Carry out `plan`: every round visits every target, in alternating order, so that drift of the machine evens out."""
    load_average = os.getloadavg()[0]
    with started(plan.targets) as bench:
        result = Result(load_average=load_average)
        result.rss_mb = {target.name: {"before": round(target.rss_mb(), 1)} for target in bench.targets}
        bench.warm_up(plan.scenarios)
        for number in range(1, plan.rounds + 1):
            say(f"round {number} of {plan.rounds}")
            for scenario in plan.scenarios:
                measured = [target for target in bench.targets if target.name in scenario.targets]
                bench.place(scenario)
                for target in measured if number % 2 else reversed(measured):
                    result.samples.append(bench.measure(scenario, target, plan=plan, number=number))
        for target in bench.targets:
            result.rss_mb[target.name]["after"] = round(target.rss_mb(), 1)
            if isinstance(target, Gateway):
                result.ledger = target.ledger()
        result.requests = bench.sent
    return result


def as_json(result: Result) -> dict[str, Any]:
    return {
        "samples": [msgspec.to_builtins(sample) for sample in result.samples],
        "rss_mb": result.rss_mb,
        "requests": result.requests,
        "ledger": result.ledger,
        "load_average_before": result.load_average,
        "problems": result.problems,
    }
