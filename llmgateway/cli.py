"""`./gateway`: one front to everything an operator or developer runs. Imports Django only for commands that need it.

Every command takes `--data DIR`, which must be known before settings are read.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Arguments = list[str]
USAGE_ERROR = 2


@dataclass(frozen=True, slots=True)
class Command:
    """`run` gets what follows the command's name, without `--data`, and returns the exit status."""

    name: str
    summary: str
    run: Callable[[Arguments], int]
    group: str


def main() -> None:
    try:
        status = run(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does; Python must not fail on it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(status)


def run(arguments: Arguments) -> int:
    arguments, data_dir = take_option(arguments, "--data")
    if data_dir is not None:
        from llmgateway.setting_sources import set_from_command_line

        set_from_command_line("GATEWAY_DATA_DIR", os.path.abspath(os.path.expanduser(data_dir)))  # noqa: PTH100, PTH111  # "" must stay an error of conf
    name, rest = _split(arguments)
    command = COMMANDS.get(name)
    if command is None:
        return _unknown(name)
    return command.run(rest)


def _split(arguments: Arguments) -> tuple[str, Arguments]:
    if not arguments:
        return "up", []
    first = arguments[0]
    if first in {"-h", "--help"}:
        return "help", []
    if first == "--version":
        return "version", []
    if first.startswith("-"):
        return "up", arguments
    return first, arguments[1:]


def _unknown(name: str) -> int:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean `./gateway {close[0]}`?" if close else "`./gateway help` lists the commands."
    return fail(f"there is no command {name!r}; {hint}", USAGE_ERROR)


def take_option(arguments: Arguments, option: str) -> tuple[Arguments, str | None]:
    """`arguments` without `option`, and its value if it was there. What follows `--` is not ours."""
    own, rest = arguments, []
    if "--" in arguments:
        cut = arguments.index("--")
        own, rest = arguments[:cut], arguments[cut:]
    parser = argparse.ArgumentParser(prog="./gateway", add_help=False, allow_abbrev=False)
    parser.add_argument(option, dest="value", metavar=option.strip("-").upper())
    found, others = parser.parse_known_args(own)
    return [*others, *rest], found.value


def fail(message: str, status: int = 1) -> int:
    print(f"gateway: {message}", file=sys.stderr, flush=True)
    return status


def show_help(arguments: Arguments) -> int:
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]].run(["--help"])
    print("Usage: ./gateway [COMMAND] [options]        every command takes --data DIR\n")
    group = ""
    for command in COMMANDS.values():
        if command.group != group:
            group = command.group
            print(f"{group}")
        print(f"  {command.name:<16} {command.summary}")
    print("\n./gateway COMMAND --help tells the options of one.")
    return 0


def _function(module: str, name: str) -> Callable[[Arguments], int]:
    """A command in a module that is imported when the command is called."""

    def run_function(arguments: Arguments) -> int:
        function: Callable[[Arguments], int] = getattr(importlib.import_module(f"llmgateway.{module}"), name)
        return function(arguments)

    return run_function


def _management(name: str, *, first: Sequence[str] = (), prepared: bool = True) -> Callable[[Arguments], int]:
    def run_command(arguments: Arguments) -> int:
        from llmgateway.management.entry import run_management_command

        return run_management_command(name, [*first, *arguments], prepared=prepared)

    return run_command


_RUN, _CONFIGURE, _READ, _KEEP, _DEVELOP = "Run", "Configure", "Look", "Keep", "Develop"

COMMANDS = {
    command.name: command
    for command in (
        Command("up", "start the gateway: server and background worker (also without a command)", _function("launch", "up"), _RUN),
        Command("demo", "start it with a built-in fake provider, a demo key, prices and traffic", _function("launch", "demo"), _RUN),
        Command("serve", "start one server process alone, as behind a process manager", _management("serve", prepared=False), _RUN),
        Command("worker", "start the background worker alone, beside servers on other hosts", _function("launch", "worker"), _RUN),
        Command("import", "make the configuration say what a YAML file says", _management("import_config"), _CONFIGURE),
        Command("export", "write the configuration as YAML", _management("export_config"), _CONFIGURE),
        Command("create-key", "create an API key and print its secret once", _management("create_key"), _CONFIGURE),
        Command("create-token", "create a token of the management API and print its secret once", _management("create_token"), _CONFIGURE),
        Command("update-prices", "compare prices with the catalogue, and take them over", _management("update_prices"), _CONFIGURE),
        Command("calibrate-tokens", "propose how tokens are estimated, from what providers counted", _management("calibrate_tokens"), _CONFIGURE),
        Command("password", "set the password of a user: password NAME", _management("changepassword"), _CONFIGURE),
        Command("usage", "print the ledger, one request a line", _management("usage"), _READ),
        Command("budgets", "print every budget with what is settled and held", _management("budgets"), _READ),
        Command("version", "print version, commit, build time and Python", _function("reports", "version_command"), _READ),
        Command("env-check", "show which provider keys and settings are set, and where", _function("reports", "env_check_command"), _READ),
        Command("doctor", "check everything the gateway needs, and say what to do", _management("doctor", prepared=False), _READ),
        Command("backup", "save database, secrets and journals in one file, beside a running gateway", _function("backups", "backup_command"), _KEEP),
        Command("restore", "put a backup back into a data folder", _function("backups", "restore_command"), _KEEP),
        Command("rotate-secrets", "make new secrets; what the old ones protect keeps working", _management("rotate_secrets"), _KEEP),
        Command("replay-rejected", "store usage records that the database once refused", _management("replay_rejected"), _KEEP),
        Command("reconcile", "hold the sums of hours against the ledger, and repair them", _management("reconcile"), _KEEP),
        Command("shell", "open a Python shell with the models imported", _management("shell"), _KEEP),
        Command("build", "collect the static files without starting, as for an image", _management("collectstatic", first=["--noinput"], prepared=False), _DEVELOP),
        Command("test", "run the tests; what follows goes to pytest", _function("development", "test"), _DEVELOP),
        Command("check", "run formatter, linter, types, spelling, migrations and system checks", _function("development", "check"), _DEVELOP),
        Command("fix", "format the code and mend what the linter can", _function("development", "fix"), _DEVELOP),
        Command("bench", "measure requests per second, added latency and CPU per request", _function("development", "bench"), _DEVELOP),
        Command("clean", "remove caches and reports; never data or the environment", _function("development", "clean"), _DEVELOP),
        Command("help", "list all this; help COMMAND tells the options of one", show_help, _DEVELOP),
    )
}  # fmt: skip

if __name__ == "__main__":
    main()
