"""`python -m bench.filling`: many keys, or many ledger rows, into the database that the environment names."""

from __future__ import annotations

import argparse
import os

DAYS = 30


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.filling", description=__doc__)
    parser.add_argument("--keys", type=int, default=0)
    parser.add_argument("--rows", type=int, default=0)
    options = parser.parse_args()
    os.environ["DJANGO_SETTINGS_MODULE"] = "llmgateway.settings"
    import django

    django.setup()
    from bench.scale_keys import fill

    if options.keys:
        fill(options.keys, ample=True)
    if options.rows:
        from bench.scale_rows import fill_ledger

        fill_ledger(options.rows, DAYS)


if __name__ == "__main__":
    main()
