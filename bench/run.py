"""One run: start what its scenarios need, measure the targets in turns, stop everything."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from bench.catalogue import OFFERS, Surroundings, title_of
from bench.disturbances import disturbing
from bench.gateway_target import Gateway
from bench.holder import Holder
from bench.processes import ALL_CPUS, PYTHON, Child, pin, split_cpus
from bench.scenarios import Scenario
from bench.targets import Direct, Service, Target
from bench.traffic import Job, Outcome

SATURATED = 0.95
"""Share of a core from which on the harness, not the target, may have decided the throughput."""


@dataclass(frozen=True, slots=True)
class Plan:
    scenarios: Sequence[Scenario]
    targets: Sequence[str]
    rounds: int
    seconds: float
    count: int = 1_000_000

    def of(self, scenario: Scenario) -> list[str]:
        """The targets that it is measured on in this run."""
        return [name for name in scenario.targets if name == "direct" or name in self.targets]


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
    services_us: float = 0.0
    """Processor time of its PostgreSQL and Redis per request."""
    disturbances: int | None = None
    """How often what goes on beside it went on."""


@dataclass(slots=True)
class Books:
    """One target of one part of the run: what was sent to it, what its ledger holds of that, what memory it took."""

    part: str
    target: str
    requests: int
    rss_mb: tuple[float, float]
    """Before and after."""
    ledger: dict[str, int] | None = None
    """None: it keeps none."""
    pages_mb: float = 0.0
    """Of the process that makes pages; 0: nobody looked at any."""

    @property
    def balance(self) -> bool:
        return self.ledger is None or self.ledger == Gateway.expected_ledger(self.requests)


@dataclass(slots=True)
class Result:
    """All samples of a run, and the checks of its end."""

    samples: list[Sample] = field(default_factory=list)
    books: list[Books] = field(default_factory=list)
    described: dict[str, dict[str, object]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Targets that were wanted and are not there, with the reason."""
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
        found += [
            f"{sample.target}, {sample.scenario}: nothing went on beside it, so it was not disturbed"
            for sample in self.samples
            if sample.disturbances == 0
        ]
        return found + [
            f"the ledger of {books.target} ({books.part}) holds {books.ledger} and should hold "
            f"{Gateway.expected_ledger(books.requests)}"
            for books in self.books
            if not books.balance
        ]


class Bench:
    """The running processes of one part of a run, and what has been sent to each target."""

    def __init__(self, load: Child, direct: Direct, targets: dict[str, Target]) -> None:
        self.load = load
        self.direct = direct
        self.by_name = {"direct": direct, **targets}
        self.sent = dict.fromkeys(self.by_name, 0)

    @property
    def targets(self) -> list[Target]:
        return list(self.by_name.values())

    @property
    def services(self) -> list[Service]:
        return list({id(service): service for target in self.targets for service in target.services}.values())

    def send(self, job: Job, name: str) -> Outcome:
        outcome = msgspec.json.decode(self.load.ask(msgspec.json.encode(job)), type=Outcome)
        self.sent[name] += outcome.sent
        return outcome

    def perform(self, job: Job, name: str) -> Outcome:
        """Send, and wait until what the requests left behind is done."""
        outcome = self.send(job, name)
        if not outcome.errors:
            self.by_name[name].settle(self.sent[name])
        return outcome

    def measure(self, scenario: Scenario, name: str, *, plan: Plan, number: int) -> Sample:
        """One job on one target, with what goes on beside it."""
        target = self.by_name[name]
        beside = Holder(self, name, scenario.held) if scenario.held else nullcontext()
        others = disturbing(self, scenario) if scenario.disturbance else nullcontext(None)
        with beside, others as disturbance:
            job = scenario.job(target, seconds=plan.seconds, count=plan.count)
            before = self._cpu_seconds(target)
            outcome = self.perform(job, name)
            cpu, services, upstream = (
                after - earlier for after, earlier in zip(self._cpu_seconds(target), before, strict=True)
            )
        return Sample(
            scenario=scenario.name,
            target=name,
            round=number,
            cpu_us=round(cpu / max(outcome.sent, 1) * 1e6, 2),
            services_us=round(services / max(outcome.sent, 1) * 1e6, 2),
            harness_share=round(outcome.cpu_share + (upstream + services) / outcome.seconds, 3),
            outcome=outcome,
            disturbances=disturbance.count if disturbance else None,
        )

    def _cpu_seconds(self, target: Target) -> tuple[float, float, float]:
        """Of the target, its services, and the mock upstream."""
        services = sum(service.cpu_seconds() for service in target.services)
        return target.cpu_seconds(), services, self.direct.cpu_seconds()

    def place(self, scenario: Scenario) -> None:
        """Under full load the target has a CPU for itself; at low load the scheduler decides.

        What keeps a target's state stands with the harness: it would be another machine's work.
        """
        shared = scenario.latency_matters
        target_cpus, harness_cpus = (ALL_CPUS, ALL_CPUS) if shared else split_cpus(scenario.target_cpus)
        pin(self.load.pid, harness_cpus)
        for target in self.targets:
            target.pin(harness_cpus if target is self.direct else target_cpus)
        for service in self.services:
            service.pin(harness_cpus)

    def warm_up(self, plan: Plan) -> None:
        for name, target in self.by_name.items():
            met = [scenario for scenario in plan.scenarios if name in plan.of(scenario)]
            for stream in sorted({scenario.stream or scenario.mix for scenario in met}):
                warm = Scenario("warm-up", "", 8, stream=stream).job(target, seconds=0.3)
                self.perform(warm, name)

    def books(self, part: str, before: dict[str, float]) -> list[Books]:
        return [
            Books(
                part,
                name,
                self.sent[name],
                (before[name], round(target.rss_mb(), 1)),
                target.ledger() if isinstance(target, Gateway) else None,
                round(target.pages_mb(), 1) if isinstance(target, Gateway) else 0.0,
            )
            for name, target in self.by_name.items()
        ]


@contextmanager
def started(names: Sequence[str]) -> Iterator[Bench]:
    """Start the harness and the targets; stop them all, whatever happens."""
    _allow_more_files()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-")))
        direct = Direct.start()
        stack.callback(direct.stop)
        load = stack.enter_context(Child([PYTHON, "-m", "bench.load"], talks=True))
        surroundings = Surroundings(folder, direct.port, stack)
        targets = {}
        for name in names:
            targets[name] = OFFERS[name].start(surroundings)
            stack.callback(targets[name].stop)
        yield Bench(load, direct, targets)


def _allow_more_files() -> None:
    """Five thousand streams are so many files for the load generator and the mock upstream, which inherit this."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def measure(plan: Plan, *, say: Callable[[str], None]) -> Result:
    """Carry out `plan`, part by part: the targets of a part run at the same time."""
    result = Result(load_average=os.getloadavg()[0])
    for part in dict.fromkeys(scenario.part for scenario in plan.scenarios):
        scenarios = [scenario for scenario in plan.scenarios if scenario.part == part]
        wanted = dict.fromkeys(name for scenario in scenarios for name in plan.of(scenario))
        missing = {name: reason for name in wanted if name != "direct" and (reason := OFFERS[name].missing())}
        result.absent |= missing
        _measure_part(
            part, replace(plan, scenarios=scenarios), [name for name in wanted if name not in missing], result, say
        )
    return result


def _measure_part(part: str, plan: Plan, names: Sequence[str], result: Result, say: Callable[[str], None]) -> None:
    """Every round visits every target, in alternating order, so that drift of the machine evens out."""
    others = [name for name in names if name != "direct"]
    say(f"{part}: starting {', '.join(map(title_of, others))}")
    with started(others) as bench:
        before = {name: round(target.rss_mb(), 1) for name, target in bench.by_name.items()}
        result.described |= {name: target.described() for name, target in bench.by_name.items()}
        bench.warm_up(plan)
        for number in range(1, plan.rounds + 1):
            for scenario in plan.scenarios:
                say(f"{part}: round {number} of {plan.rounds}, {scenario.name}")
                measured = [name for name in plan.of(scenario) if name in bench.by_name]
                bench.place(scenario)
                for name in measured if number % 2 else reversed(measured):
                    result.samples.append(bench.measure(scenario, name, plan=plan, number=number))
        result.books += bench.books(part, before)


def as_json(result: Result) -> dict[str, Any]:
    return {
        "samples": [msgspec.to_builtins(sample) for sample in result.samples],
        "books": [msgspec.to_builtins(books) for books in result.books],
        "described": result.described,
        "absent": result.absent,
        "load_average_before": result.load_average,
        "problems": result.problems,
    }
