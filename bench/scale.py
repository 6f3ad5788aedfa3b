"""`python -m bench.scale`: how much state one worker and one database bear, and where the product's goals lie.

    python -m bench.scale --keys 100000                  # a worker with many keys, on SQLite
    python -m bench.scale --keys 100000 --postgres       # the same on a PostgreSQL that is started for the run
    python -m bench.scale --rows 1000000 --postgres      # pages, API, commands and counters on a large ledger
    python -m bench.scale --rows 10000000 --days 90 --of-keys 400000 --postgres

Everything is made up, in databases that are removed in the end; `--folder` says on which disk.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from bench.gateway_target import command, configuration
from bench.processes import PYTHON, BenchError, Child
from bench.scale_databases import scratch
from bench.scale_keys import NOTHING, SECRET, Worker, edits, fill

LONGEST_START_S = 3.0
MOST_MB = 300.0
VISIBLE_WITHIN_S = 1.0
LONGEST_GAP_MS = 20.0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__.partition("\n")[0])
    made.add_argument("--keys", type=int, metavar="N", help="a worker with N keys")
    made.add_argument("--rows", type=int, metavar="N", help="a ledger of N rows")
    made.add_argument("--of-keys", type=int, default=2_000, metavar="N", help="keys beside the rows (2,000)")
    made.add_argument("--days", type=int, default=60, help="over which the rows are spread (60)")
    made.add_argument("--postgres", action="store_true", help="on PostgreSQL; otherwise on SQLite")
    made.add_argument("--folder", type=Path, help="where the databases are made (default: the temporary folder)")
    made.add_argument("--plans", action="store_true", help="print the plans of queries that miss their goal")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.keys is None and options.rows is None:
        options.keys, options.rows = 100_000, 1_000_000
    try:
        with scratch(postgres=options.postgres, folder=options.folder) as env:
            _prepare(env)
            if options.keys is not None:
                _measure_keys(env, options.keys)
            if options.rows is not None:
                from bench.scale_rows import measure_rows

                measure_rows(options.rows, options.days, keys=options.of_keys, say=_say, plans=options.plans)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _prepare(env: dict[str, str]) -> None:
    """This process makes the rows and the edits; the gateway's worker is one of its own."""
    os.environ |= env | {"DJANGO_SETTINGS_MODULE": "llmgateway.settings"}
    folder = Path(env["GATEWAY_DATA_DIR"])
    folder.mkdir(parents=True)
    command(env, "export")  # Makes secrets and tables.
    import django

    django.setup()


def _measure_keys(env: dict[str, str], keys: int) -> None:
    load = os.getloadavg()[0]
    _say(f"{keys:,} keys; {os.cpu_count()} CPUs, load {load:.1f}")
    with Child([PYTHON, "-m", "bench.mock_upstream"], talks=True) as upstream:
        port = int(upstream.read_line().split()[1])
        folder = Path(env["GATEWAY_DATA_DIR"])
        file = folder / "scale.yaml"
        file.write_text(yaml.safe_dump(configuration(port, SECRET)))
        command(env, "import", str(file))
        began = time.perf_counter()
        fill(keys)
        _say(f"written in {time.perf_counter() - began:.0f} s")
        worker = Worker(env, folder / "worker.log")
        try:
            _print_start(worker)
            _print_changes(worker)
        finally:
            worker.stop()


def _print_start(worker: Worker) -> None:
    found = worker.started
    _say(
        f"load     {found.load_s:6.2f} s, {found.load_cpu_s:5.2f} s of CPU (goal {LONGEST_START_S:.0f} s)\n"
        f"start    {found.start_s:6.2f} s, {found.start_cpu_s:5.2f} s of CPU, counters and journals included\n"
        f"memory   {found.started_mb:6.0f} MB, {found.empty_mb:.0f} MB before, {found.peak_mb:.0f} MB at the peak "
        f"(goal {MOST_MB:.0f} MB)"
    )


def _print_changes(worker: Worker) -> None:
    _say(
        f"{'change':<26}{'visible':>10}{'longest gap':>14}{'own':>10}{'> 20 ms':>9}{'requests':>10}{'failed':>8}{'memory':>10}"
    )
    for name, edit in edits().items():
        change = worker.change(name, edit)
        visible = "" if name == NOTHING else f"{change.visible_s:.2f} s"
        _say(
            f"{name:<26}{visible:>10}{change.gap_ms:>11.1f} ms{change.own_gap_ms:>7.1f} ms{change.gaps:>9}"
            f"{change.requests:>10}{change.failed:>8}{worker.rss_mb():>7.0f} MB"
        )
    _say(f"goals: one key visible in {VISIBLE_WITHIN_S:.0f} s, no gap over {LONGEST_GAP_MS:.0f} ms")


if __name__ == "__main__":
    sys.exit(main())
