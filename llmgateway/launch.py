"""Starts a gateway: checks what it needs, then hands its processes to the supervisor. No Django."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from llmgateway.conf import PROJECT_ROOT, Conf, read_environment
from llmgateway.demo import state as demo_state
from llmgateway.setting_sources import given_on_command_line, set_from_command_line
from llmgateway.supervisor import (
    Child,
    StartError,
    Supervisor,
    check_data_folder,
    lock_data_folder,
    open_listener,
    say,
)

DRAIN_SPARE_S = 10
"""What a server gets on top of the grace of its requests, to write down what they cost."""

BACKGROUND_STOP_S = 1.5
"""Enough for a task that is running; what is cut short lies in rows and is done after the next start. An idle worker
takes longer than this to say goodbye."""


def up(arguments: list[str]) -> int:
    """`./gateway`: until a stop signal. Returns the exit status."""
    options = _parser("up", "Start the gateway: server and background worker.").parse_args(arguments)
    _take_over(options)
    return _start(_conf_or_exit(), config_file=options.config)


def demo(arguments: list[str]) -> int:
    """`./gateway demo`: the same, in a data folder of its own, with a fake provider, a past and traffic."""
    parser = _parser("demo", "Start a gateway to look at: a fake provider, demo keys, prices, a past and traffic.")
    parser.add_argument("--reset", action="store_true", help="forget what the demo in this data folder holds, first")
    parser.epilog = "--data DIR: where the demo lives (the folder demo in the usual data folder)"
    options = parser.parse_args(arguments)
    _take_over(options)
    if not given_on_command_line("GATEWAY_DATA_DIR"):
        os.environ["GATEWAY_DATA_DIR"] = str(_conf_or_exit().data_dir / "demo")
    conf = _conf_or_exit()
    try:
        if options.reset:
            _reset(conf)
        check_data_folder(conf.data_dir)
        state = demo_state.load_or_create(conf.data_dir)
    except StartError as error:
        say(str(error))
        return 1
    os.environ.update(state.variables())
    os.environ["DJANGO_SUPERUSER_PASSWORD"] = state.admin_password
    traffic = [*_python(), "-m", "llmgateway.demo.traffic", f"http://{_reachable(conf.host)}:{conf.port}/v1/"]
    more = (
        Child("fake provider", fake_provider_command(conf, state.provider_port), first=True),
        Child("demo traffic", traffic),
    )
    return _start(conf, config_file=options.config, command="demo", more=more)


def fake_provider_command(conf: Conf, port: int) -> list[str]:
    """The demo's provider. Only with rules by which it fails can it also be told to fail."""
    command = [*_python(), "-m", "providers.fake_server", "--port", str(port)]
    if not conf.fake_provider_faults:
        return [*command, "--no-control"]
    return [*command, "--faults", str(Path(conf.fake_provider_faults).absolute())]


def _reset(conf: Conf) -> None:
    """Under the lock, so that no running gateway loses its files."""
    if conf.data_dir.exists():
        lock = lock_data_folder(conf.data_dir, wait_s=0)
        try:
            demo_state.reset(conf.data_dir)
        finally:
            os.close(lock)


def _reachable(host: str) -> str:
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104  # compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def worker(arguments: list[str]) -> int:  # noqa: RET503  # execve does not return
    """`./gateway worker`: becomes the background worker."""
    argparse.ArgumentParser(
        prog="./gateway worker", description="Start the background worker and its scheduler; run one per database."
    ).parse_args(arguments)
    conf = _conf_or_exit()
    try:
        check_data_folder(conf.data_dir)
    except StartError as error:
        say(str(error))
        return 1
    command = worker_command()
    os.execve(command[0], command, child_environment())  # noqa: S606  # our own interpreter


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"./gateway {name}", description=description, allow_abbrev=False)
    parser.add_argument("--host", help="address to listen on (HOST, 127.0.0.1)")
    parser.add_argument("--port", help="port to listen on (PORT, 8000)")
    parser.add_argument("--workers", metavar="N", help="server processes (WORKERS, 1); more need PostgreSQL and Redis")
    parser.add_argument("--config", metavar="FILE", help="YAML to import before listening; an error stops the start")
    parser.epilog = "--data DIR: where database, secrets, journals and logs live (GATEWAY_DATA_DIR, ./data)"
    return parser


def _take_over(options: argparse.Namespace) -> None:
    if options.host is not None:
        set_from_command_line("HOST", options.host)
    if options.port is not None:
        set_from_command_line("PORT", options.port)
    if options.workers is not None:
        set_from_command_line("WORKERS", options.workers)


def _conf_or_exit() -> Conf:
    """The settings, each read once, so that a bad one stops the start before anything runs."""
    try:
        conf = Conf(read_environment(dict(os.environ)))
        for setting in Conf.settings():
            getattr(conf, _attribute(setting.name))
    except (ImproperlyConfigured, OSError) as error:
        say(" ".join(str(error).split()))
        raise SystemExit(1) from error
    return conf


def _attribute(name: str) -> str:
    return next(key for key, value in vars(Conf).items() if getattr(value, "name", None) == name)


def _start(conf: Conf, *, config_file: str | None, command: str = "serve", more: tuple[Child, ...] = ()) -> int:
    try:
        check_workers(conf)
        check_data_folder(conf.data_dir)
        lock = lock_data_folder(conf.data_dir, wait_s=conf.shutdown_grace_s + DRAIN_SPARE_S)
        listener = open_listener(conf.host, conf.port)
    except StartError as error:
        say(str(error))
        return 1
    ready, ready_writer = os.pipe()
    servers = [
        Child(
            name="server" if number == 1 else f"server {number}",
            command=_server_command(command, listener.fileno(), ready_writer, config_file, number=number),
            # The first prepares the database, so the others wait for it.
            first=number == 1,
            essential=True,
            stop_within_s=conf.shutdown_grace_s + DRAIN_SPARE_S,
            pass_fds=(listener.fileno(), ready_writer, lock) if number == 1 else (listener.fileno(), lock),
        )
        for number in range(1, conf.workers + 1)
    ]
    # Its tasks are only wake-ups, so it need not end them; a server must write down what its requests cost.
    background = Child(
        name="background worker",
        command=worker_command(),
        stop_within_s=BACKGROUND_STOP_S,
        on_our_death=signal.SIGKILL,
    )
    children = [*more, *servers, background]
    return Supervisor(children, ready_fd=ready, listener=listener, environment=child_environment()).run()


def check_workers(conf: Conf) -> None:
    """
    Raises:
        StartError: several workers would each count limits and budgets for themselves.
    """
    if conf.workers == 1:
        return
    if not conf.redis_url:
        raise StartError(
            f"{conf.workers} workers would each count limits and budgets for themselves: set REDIS_URL to share them, or "
            "start one worker."
        )
    if not conf.database_url.startswith(("postgres://", "postgresql://")):
        raise StartError(
            f"{conf.workers} workers write to the ledger at the same time, which SQLite cannot do: set DATABASE_URL to a "
            "PostgreSQL database, or start one worker."
        )


def _server_command(name: str, listener: int, ready: int, config_file: str | None, *, number: int) -> list[str]:
    command = [*_python(), "-m", "llmgateway.management.entry"]
    if number > 1:
        return [*command, "serve", "--fd", str(listener), "--prepared"]
    command = [*command, name, "--fd", str(listener), "--ready-fd", str(ready)]
    return [*command, "--config", str(Path(config_file).absolute())] if config_file else command


def worker_command() -> list[str]:
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING"]
    app = ["-m", "celery", "--quiet", "-A", "llmgateway.celery"]
    return [*_python(), *app, "worker", "-B", "-P", "threads", "-c", "2", *quiet]


def _python() -> list[str]:
    return [sys.executable, "-P"]


def child_environment() -> dict[str, str]:
    """Ours, with the project on the path wherever it was started from."""
    environment = dict(os.environ)
    environment["DJANGO_SETTINGS_MODULE"] = "llmgateway.settings"
    paths = [str(PROJECT_ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment
