"""`./gateway test --live`: a chat, a stream and a tool call at real providers, through a gateway process of its own.

What it may cost is a strict budget of that gateway, so nothing can go beyond it. No Django here: the process has that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import yaml

from billing.catalogue import prices_of_model
from billing.money import plain, usd, usd_per_million
from llmgateway.conf import PROJECT_ROOT, read_environment
from llmgateway.http import httpx
from llmgateway.launch import child_environment
from llmgateway.supervisor import say
from providers.adapters.base import Adapter
from providers.adapters.registry import adapter_names, api_key_variables, get_adapter

CEILING_USD = "0.05"
START_S, ANSWER_S = 90, 120
OUTPUT_TOKENS = 400
"""Enough for a model that thinks before it answers."""
SETTINGS_OF_OTHERS = ("DATABASE_URL", "REDIS_URL", "GATEWAY_KEY_PEPPERS", "GATEWAY_FIELD_KEYS", "SECRET_KEY")
"""A trial must not touch the gateway whose environment it is started in."""
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class TrialFailedError(Exception):
    """A provider, or the gateway before it, did not do what was asked."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One provider to be tried."""

    name: str
    variable: str
    model: str
    base_url: str
    """Empty: the adapter's own."""


def command(arguments: list[str]) -> int:
    """Try the providers that have a key in the environment, say what each did, and what all of it cost."""
    options = _parser().parse_args(arguments)
    values = read_environment(dict(os.environ))
    trials = []
    for name in options.providers or _tryable():
        adapter = get_adapter(name)
        variable = next((each for each in api_key_variables(adapter) if values.get(each, "").strip()), None)
        model = options.model.get(name, adapter.trial_model)
        if variable is None:
            print(f"{name}: not run, for {' and '.join(api_key_variables(adapter))} are not set")
        elif not model:
            print(f"{name}: not run, for no model is known to be cheap; name one with --model {name}=MODEL")
        elif not _prices(adapter, model):
            print(f"{name}: not run, for {model} is not in the price catalogue, so its cost could not be bounded")
        else:
            trials.append(Trial(name, variable, model, options.base_url.get(name, "")))
    if not trials:
        print("Nothing was run. `./gateway env-check` shows which keys are set.")
        return 0
    return _run(trials, options.max_usd, values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./gateway test --live",
        description="Run a chat, a stream and a tool call at real providers, with keys from the environment.",
    )
    parser.add_argument("providers", nargs="*", choices=[[], *_with_keys()], metavar="PROVIDER", help="default: all")
    parser.add_argument("--max-usd", type=_dollars, default=_dollars(CEILING_USD), help="the most that it may cost")
    parser.add_argument("--model", action=_Pairs, default={}, metavar="PROVIDER=MODEL", help="another model")
    parser.add_argument("--base-url", action=_Pairs, default={}, metavar="PROVIDER=URL", help="another address")
    return parser


def _with_keys() -> list[str]:
    return sorted(
        name for name in adapter_names() if get_adapter(name).base_url and api_key_variables(get_adapter(name))
    )


def _tryable() -> list[str]:
    """Those that a model is known of."""
    return [name for name in _with_keys() if get_adapter(name).trial_model]


def _dollars(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount; write one such as 0.05") from None
    if not 0 < amount <= 1000:
        raise argparse.ArgumentTypeError("write an amount above 0 and up to 1000")
    return amount


class _Pairs(argparse.Action):
    """Collects `NAME=VALUE`."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        name, equals, value = str(values).partition("=")
        if not (name in adapter_names() and equals and value):
            parser.error(f"{option} takes PROVIDER=VALUE")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), name: value})


def _run(trials: list[Trial], ceiling: Decimal, values: dict[str, str]) -> int:
    failures = 0
    with tempfile.TemporaryDirectory(prefix="gateway-live-") as folder:
        key = f"sk-live-trial-{secrets.token_hex(16)}"
        environment = _environment(Path(folder), trials, values)
        with _running_gateway(Path(folder), _configuration(trials, ceiling, key), environment) as address:
            for trial in trials:
                failures += _try(trial, address, key)
        spent = _spent(environment)
    for trial in trials:
        print(f"{trial.name}: cost {plain(spent.get(trial.name, Decimal()))} USD")
    print(f"In all {plain(sum(spent.values(), Decimal()))} USD of at most {plain(ceiling)} USD.")
    return 1 if failures else 0


def _try(trial: Trial, address: str, key: str) -> int:
    """How many of its steps failed. Each says so."""
    failures = 0
    for title, step in STEPS.items():
        began = time.monotonic()
        try:
            with httpx.Client(base_url=address, headers={"authorization": f"Bearer {key}"}, timeout=ANSWER_S) as client:
                step(client, trial)
            said = "works"
        except (TrialFailedError, httpx.HTTPError) as error:
            failures += 1
            said = f"FAILED: {error}"
        print(f"{trial.name} {trial.model} {title}: {said} ({time.monotonic() - began:.1f} s)", flush=True)
    return failures


def _chat(client: httpx.Client, trial: Trial) -> None:
    answer = _ask(client, trial, messages=[{"role": "user", "content": "Say the word pong and nothing else."}])
    if not (_message(answer).get("content") or "").strip():
        raise TrialFailedError("the answer has no text")
    if not (answer.get("usage") or {}).get("completion_tokens"):
        raise TrialFailedError("the answer reports no usage")


def _tools(client: httpx.Client, trial: Trial) -> None:
    question = [{"role": "user", "content": "What is the weather in Oslo?"}]
    answer = _ask(client, trial, messages=question, tools=[WEATHER], tool_choice="required")
    calls = _message(answer).get("tool_calls") or []
    if not calls:
        raise TrialFailedError("the answer calls no tool")
    called = calls[0]["function"]
    try:
        arguments = json.loads(called["arguments"])
    except ValueError:
        raise TrialFailedError("the arguments of the tool call are no JSON") from None
    if called["name"] != "weather" or "city" not in arguments:
        raise TrialFailedError("the tool call is not the one that was asked for")


def _stream(client: httpx.Client, trial: Trial) -> None:
    body = _body(trial, messages=[{"role": "user", "content": "Count from 1 to 5."}], stream=True)
    text, ended = "", False
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise TrialFailedError(f"{response.status_code} {response.read().decode(errors='replace')[:300]}")
        for line in response.iter_lines():
            data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
            ended = ended or data == "[DONE]"
            if data and data != "[DONE]":
                text += _delta(json.loads(data))
    if not text.strip():
        raise TrialFailedError("the stream brought no text")
    if not ended:
        raise TrialFailedError("the stream did not end as streams do")


STEPS: dict[str, Callable[[httpx.Client, Trial], None]] = {"chat": _chat, "stream": _stream, "tools": _tools}


def _ask(client: httpx.Client, trial: Trial, **asked: Any) -> dict[str, Any]:
    response = client.post("/v1/chat/completions", json=_body(trial, **asked))
    if response.status_code != 200:
        raise TrialFailedError(f"{response.status_code} {response.text[:300]}")
    answer: dict[str, Any] = response.json()
    return answer


def _body(trial: Trial, **asked: Any) -> dict[str, Any]:
    return {"model": trial.name, "max_completion_tokens": OUTPUT_TOKENS, **asked}


def _message(answer: dict[str, Any]) -> dict[str, Any]:
    choices = answer.get("choices") or [{}]
    return choices[0].get("message") or {}


def _delta(chunk: dict[str, Any]) -> str:
    if "error" in chunk:
        raise TrialFailedError(f"the stream broke: {json.dumps(chunk['error'])[:300]}")
    choices = chunk.get("choices") or [{}]
    return (choices[0].get("delta") or {}).get("content") or ""


def _configuration(trials: list[Trial], ceiling: Decimal, key: str) -> str:
    budget = {"name": "ceiling", "window": "total", "limit_usd": plain(ceiling), "mode": "strict"}
    return yaml.safe_dump(
        {
            "version": 1,
            "providers": {
                trial.name: {
                    "credentials": [{"name": "main", "api_key": f"env:{trial.variable}"}],
                    # Another address is the caller's own choice, and may well be a server beside this one.
                    **({"base_url": trial.base_url, "allow_private_network": True} if trial.base_url else {}),
                }
                for trial in trials
            },
            "deployments": {
                trial.name: {"provider": trial.name, "credential": "main", "model": trial.model} for trial in trials
            },
            "aliases": {trial.name: {"targets": [{"deployment": trial.name}]} for trial in trials},
            "prices": [row for trial in trials for row in _prices(get_adapter(trial.name), trial.model)],
            "teams": {"trial": {}},
            "keys": {"trial": {"team": "trial", "secret": key, "budgets": [budget]}},
            "settings": {"retries": {"attempts": 0}},
        }
    )


def _prices(adapter: Adapter, model: str) -> list[dict[str, str]]:
    """The catalogue's, in the words of the configuration file."""
    return [
        {
            "provider": adapter.name,
            "model": model,
            "effective_from": price.effective_from.isoformat(),
            **{
                name: plain(usd(figure) if name == "request" else usd_per_million(figure))
                for name, figure in price.figures.items()
                if figure is not None
            },
        }
        for price in prices_of_model(adapter.base_url, model)
    ]


def _environment(folder: Path, trials: list[Trial], values: dict[str, str]) -> dict[str, str]:
    """The caller's environment, without other gateways' places and other providers' keys."""
    keys = {variable for name in adapter_names() for variable in api_key_variables(get_adapter(name))}
    kept = {name: value for name, value in child_environment().items() if name not in {*keys, *SETTINGS_OF_OTHERS}}
    return {
        **kept,
        **{trial.variable: values[trial.variable] for trial in trials},
        "GATEWAY_DATA_DIR": str(folder / "data"),
        "DJANGO_SUPERUSER_USERNAME": "trial",
        "DJANGO_SUPERUSER_PASSWORD": secrets.token_urlsafe(24),
    }


@contextlib.contextmanager
def _running_gateway(folder: Path, configuration: str, environment: dict[str, str]) -> Iterator[str]:
    """The address of a gateway that runs as operators run it."""
    file, log = folder / "gateway.yaml", folder / "gateway.log"
    file.write_text(configuration, encoding="utf-8")
    port = _free_port()
    command = [sys.executable, "-P", "-m", "llmgateway.cli", "serve", "--config", str(file)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=PROJECT_ROOT,
            env={**environment, "HOST": "127.0.0.1", "PORT": str(port)},
            stdout=output,
            stderr=output,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, process, log)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline, pause = time.monotonic() + START_S, threading.Event()
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/health/ready", timeout=5).status_code == 200:
                return
        pause.wait(0.1)
    say(f"the gateway for the trial did not start:\n{log.read_text(errors='replace')[-2000:]}")
    raise SystemExit(1)


def _spent(environment: dict[str, str]) -> dict[str, Decimal]:
    """What the ledger says, in dollars by provider."""
    command = [sys.executable, "-P", "-m", "llmgateway.cli", "usage", "--json"]
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=True)
    spent: dict[str, Decimal] = {}
    for line in done.stdout.splitlines():
        row = json.loads(line)
        spent[row["provider"]] = spent.get(row["provider"], Decimal()) + usd(row["cost_pico_usd"])
    return spent


def _free_port() -> int:
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        port: int = plug.getsockname()[1]
        return port
