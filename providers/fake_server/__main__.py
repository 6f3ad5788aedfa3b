"""`python -m providers.fake_server --port 8001`: serve until interrupted."""

from __future__ import annotations

import argparse

from providers.fake_server.app import FakeProvider
from providers.fake_server.server import make_server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m providers.fake_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8001, help="port to listen on (default: %(default)s)")
    parser.add_argument("--key", default="", help="refuse requests with another key")
    options = parser.parse_args()
    make_server(FakeProvider(secret=options.key), host=options.host, port=options.port).run()


if __name__ == "__main__":
    main()
