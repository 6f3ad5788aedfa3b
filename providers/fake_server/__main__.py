"""`python -m providers.fake_server --port 8001`: serve until interrupted."""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from providers.fake_server.app import FakeProvider
from providers.fake_server.faults import PlanError, read_plan
from providers.fake_server.server import make_server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m providers.fake_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8001, help="port to listen on (default: %(default)s)")
    parser.add_argument("--key", default="", help="refuse requests with another key")
    parser.add_argument(
        "--faults", type=Path, metavar="FILE", help="rules (YAML) that make it fail; see docs/game-days.md"
    )
    parser.add_argument(
        "--no-control", action="store_true", help="nobody can set rules by which it fails, or read what it was sent"
    )
    options = parser.parse_args()
    provider = FakeProvider(secret=options.key, control=not options.no_control)
    if options.faults is not None:
        try:
            provider.faults.follow(read_plan(yaml.safe_load(options.faults.read_text()) or {}))
        except (OSError, yaml.YAMLError, PlanError) as error:
            parser.error(f"{options.faults}: {error}")
    make_server(provider, host=options.host, port=options.port).run()


if __name__ == "__main__":
    main()
