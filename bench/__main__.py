"""`./gateway bench`: measure the gateway beside nginx and others, and say what it costs."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench import baseline, peers
from bench.catalogue import OFFERS
from bench.drawings import drawings
from bench.processes import ROOT, BenchError
from bench.publish import publish
from bench.report import document, rows, versions
from bench.run import Plan, Result, measure
from bench.scenarios import COMMON, GROUPS, LONG, PEERS, SCENARIOS, USUAL, Scenario, chosen
from bench.tables import report

TARGETS = (*(name for name in COMMON if name != "direct"), *PEERS)
QUICK = ("json", "low", "burst")
SECONDS = 1.2


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="./gateway bench", description=__doc__)
    made.add_argument(
        "--scenarios",
        type=_names((*GROUPS, *SCENARIOS)),
        help=f"{', '.join(USUAL)} (these unless said); {', '.join(LONG)} (long)",
    )
    made.add_argument("--all", action="store_true", help="every scenario and peer, in about half an hour")
    made.add_argument(
        "--targets", type=_names(TARGETS), help=f"{', '.join(TARGETS)}; without peers unless said or --peers"
    )
    made.add_argument("--peers", action="store_true", help="measure LiteLLM and Portkey too, where they are installed")
    made.add_argument("--seconds", type=float, default=SECONDS, help=f"of each measurement ({SECONDS})")
    made.add_argument("--rounds", type=int, default=3, help="of all measurements (3); tables show medians")
    made.add_argument("--quick", action="store_true", help="a first impression in about 20 seconds")
    made.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where JSON, Markdown and plots go (default: bench/results/TIME)"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    made.add_argument(
        "--baseline",
        type=Path,
        default=baseline.FILE,
        metavar="FILE",
        help="of the two that follow (default: bench/baseline.json)",
    )
    made.add_argument(
        "--check", action="store_true", help="compare ratios with the baseline; exits with 1 on a regression"
    )
    made.add_argument("--write-baseline", action="store_true", help="make it; on a quiet machine only")
    made.add_argument("--publish", action="store_true", help="put tables and plots into docs/performance.md")
    made.add_argument(
        "--install-peers", action="store_true", help=f"download LiteLLM and Portkey to {peers.cache_folder()}"
    )
    return made


def _names(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        given = tuple(name.strip() for name in text.split(",") if name.strip())
        if unknown := [name for name in given if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} not known; choose from {', '.join(known)}")
        return given

    return read


def plan_of(options: argparse.Namespace) -> Plan:
    scenarios = _scenarios(options)
    return Plan(
        scenarios=scenarios,
        targets=_targets(options, scenarios),
        rounds=options.rounds,
        seconds=min(options.seconds, 0.4) if options.quick else options.seconds,
    )


def _scenarios(options: argparse.Namespace) -> list[Scenario]:
    if options.scenarios:
        return chosen(options.scenarios)
    if options.all:
        return chosen(GROUPS)
    if options.check or options.write_baseline:
        return chosen(baseline.CHECKED)
    return chosen(QUICK if options.quick else USUAL)


def _targets(options: argparse.Namespace, scenarios: Sequence[Scenario]) -> tuple[str, ...]:
    """Common ones where they are installed, and the gateways that only their own scenarios know. Those that were asked
    for and are missing stay, to be told.
    """
    usual = tuple(name for name in TARGETS if name not in PEERS and not OFFERS[name].missing())
    with_peers = PEERS if options.peers or options.all else ()
    common = (*(options.targets or usual), *with_peers)
    special = dict.fromkeys(
        name for scenario in scenarios for name in scenario.targets if name not in (*COMMON, *PEERS)
    )
    # Half of a comparison says nothing, so a gateway beside the usual one brings the usual one.
    needed = ("gateway",) if any(scenario.part != "usual" for scenario in scenarios) else ()
    return tuple(dict.fromkeys((*common, *needed, *special)))


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        if options.install_peers:
            return _install()
        return _measure(options)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _install() -> int:
    failed = peers.install(_say)
    for reason in failed:
        _say(f"could not be installed: {reason}")
    return 1 if failed else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _measure(options: argparse.Namespace) -> int:
    plan = plan_of(options)
    # Before minutes of measuring, not after.
    expected = baseline.read(options.baseline) if options.check else None
    result = measure(plan, say=_say)
    folder = options.output or ROOT / "bench" / "results" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    pictures = drawings(rows(result.samples), plan)
    write(folder, result, plan, pictures, also=options.json)
    print(f"\n{report(result, plan)}\n\nWritten to {folder}")
    if result.problems:
        return 1
    if options.publish:
        print(f"Put into docs/performance.md: {', '.join(publish(result, plan, pictures)) or 'nothing'}")
    if options.write_baseline:
        about = f"gateway {versions()['gateway']}, {datetime.now(UTC):%Y-%m-%d}"
        baseline.write(result.samples, about=about, file=options.baseline)
        print(f"Written to {options.baseline}")
    return _hold(result, expected) if expected else 0


def write(folder: Path, result: Result, plan: Plan, pictures: Mapping[str, str], *, also: Path | None) -> None:
    """`run.json`, `report.md` and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    data = msgspec.json.format(msgspec.json.encode(document(result, plan)), indent=1)
    for file in (folder / "run.json", also):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    for name, text in pictures.items():
        (folder / name).write_text(text)
    shown = "\n".join(f"![{name.removesuffix('.svg')}]({name})" for name in pictures)
    (folder / "report.md").write_text(f"# What the gateway costs\n\n{report(result, plan)}\n\n{shown}\n")


def _hold(result: Result, expected: baseline.Baseline) -> int:
    verdicts = baseline.compare(result.samples, expected)
    print(f"\nBeside the baseline ({expected.about}):", *verdicts, sep="\n")
    return 1 if any(verdict.regressed for verdict in verdicts) else 0


def _stop_in_order(*_: object) -> None:
    """A run that is told to stop still stops what it has started."""
    raise SystemExit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop_in_order)
    sys.exit(main())
