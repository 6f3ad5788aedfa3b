"""`./gateway bench`: measure the gateway beside nginx and print what it costs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench.processes import ROOT, BenchError
from bench.report import document, table
from bench.run import Plan, measure
from bench.scenarios import SCENARIOS
from bench.targets import Nginx

TARGETS = ("echo", "nginx", "gateway")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="./gateway bench", description=__doc__)
    made.add_argument("--scenarios", type=_names(tuple(SCENARIOS)), default=tuple(SCENARIOS), help=", ".join(SCENARIOS))
    made.add_argument(
        "--targets", type=_names(TARGETS), help=f"{', '.join(TARGETS)} (nginx only where it is installed)"
    )
    made.add_argument("--seconds", type=float, default=2.5, help="of each measurement")
    made.add_argument("--rounds", type=int, default=3, help="of all measurements; the table shows medians")
    made.add_argument("--quick", action="store_true", help="a first impression in about 20 seconds")
    made.add_argument(
        "--json", type=Path, metavar="FILE", help="where the figures go (default: bench/results/TIME.json)"
    )
    return made


def _names(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        chosen = tuple(name.strip() for name in text.split(",") if name.strip())
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} not known; choose from {', '.join(known)}")
        return chosen

    return read


def plan_of(options: argparse.Namespace) -> Plan:
    names = ("json", "low", "burst") if options.quick and options.scenarios == tuple(SCENARIOS) else options.scenarios
    installed = tuple(name for name in TARGETS if name != "nginx" or Nginx.installed())
    return Plan(
        scenarios=[SCENARIOS[name] for name in names],
        targets=options.targets or installed,
        rounds=options.rounds,
        seconds=0.4 if options.quick else options.seconds,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    plan = plan_of(options)
    try:
        result = measure(plan, say=lambda text: print(text, file=sys.stderr, flush=True))
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    file = options.json or ROOT / "bench" / "results" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(document(result, plan)), indent=1))
    print(f"\n{table(result, plan)}\n\nWritten to {file}")
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
