"""`./gateway version` and `env-check`: what is running, and with which settings. No database."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict

from llmgateway.conf import Conf, read_environment
from llmgateway.setting_sources import masked, setting_sources
from llmgateway.version import build
from providers.adapters.registry import adapter_names, api_key_variables, get_adapter

KEY_ENDING = "_API_KEY"
"""Of variables that credentials commonly refer to."""


def version_command(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="./gateway version", description="Print version, commit, build time and Python."
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    built = build()
    if parser.parse_args(arguments).json:
        print(json.dumps(asdict(built)))
        return 0
    print(f"llmgateway {built.version}")
    print(f"commit     {built.commit or 'unknown'}")
    print(f"built at   {built.built_at or 'unknown'}")
    print(f"python     {built.python}")
    return 0


def env_check_command(arguments: list[str]) -> int:
    argparse.ArgumentParser(
        prog="./gateway env-check",
        description="Show which provider keys are set (masked), and every setting with where its value comes from.",
    ).parse_args(arguments)
    conf = Conf(read_environment(dict(os.environ)))
    print("Provider keys")
    for name, value in provider_keys(conf.values):
        print(f"  {name:<24} {masked(value) if value else 'not set'}")
    print("\nSettings")
    for setting in setting_sources(conf):
        print(f"  {setting.name:<24} {setting.shown or '(empty)':<32} {setting.source}")
    return 0


def provider_keys(values: dict[str, str]) -> list[tuple[str, str]]:
    """Each variable that holds the key of a provider with an address of its own, with its value; then others like it."""
    adapters = [adapter for adapter in map(get_adapter, sorted(adapter_names())) if adapter.base_url]
    known = [variable for adapter in adapters for variable in api_key_variables(adapter)]
    others = [name for name in sorted(values) if name.endswith(KEY_ENDING)]
    return [(name, values.get(name, "")) for name in dict.fromkeys([*known, *others])]
