"""Where each setting's value comes from, for people who wonder why the gateway listens where it does. No Django settings."""

from __future__ import annotations

import os
from dataclasses import dataclass

from llmgateway.conf import Conf, Setting, read_env_file

COMMAND_LINE = "GATEWAY_COMMAND_LINE"
"""Names the variables that came from options, for a child process sees them all as its environment."""

SECRET_SETTINGS = frozenset(
    {Conf.secret_key.name, Conf.field_keys.name, Conf.key_peppers.name, Conf.metrics_token.name}
)
URLS_WITH_PASSWORDS = frozenset(
    {Conf.database_url.name, Conf.redis_url.name, Conf.email_url.name, Conf.upstream_proxy.name}
)


@dataclass(frozen=True, slots=True)
class SettingSource:
    name: str
    shown: str
    """The value as it may be shown: secrets and passwords are masked."""
    source: str
    """`command line`, `environment`, a file's name, or `default`."""


def setting_sources(conf: Conf) -> list[SettingSource]:
    """Every setting, in the order of `llmgateway.conf`."""
    return [_source_of(conf, setting) for setting in Conf.settings()]


def changed_settings(conf: Conf) -> list[SettingSource]:
    """The settings that an operator gave a value to."""
    return [source for source in setting_sources(conf) if source.source not in {"default", conf.secrets_file.name}]


def set_from_command_line(name: str, value: str) -> None:
    """Give a setting the value of an option, and remember that it came from one."""
    os.environ[name] = value
    os.environ[COMMAND_LINE] = f"{os.environ.get(COMMAND_LINE, '')} {name}".strip()


def given_on_command_line(name: str) -> bool:
    return name in os.environ.get(COMMAND_LINE, "").split()


def _source_of(conf: Conf, setting: Setting[object]) -> SettingSource:
    text = conf.values.get(setting.name, "").strip()
    if not text:
        return SettingSource(setting.name, setting.default_text, "default")
    return SettingSource(setting.name, _shown(setting.name, text), _place(conf, setting.name))


def _place(conf: Conf, name: str) -> str:
    if given_on_command_line(name):
        return "command line"
    if name in os.environ:
        return "environment"
    dotenv = conf.data_dir / ".env"
    if dotenv.is_file() and name in read_env_file(dotenv):
        return ".env"
    return conf.secrets_file.name


def _shown(name: str, text: str) -> str:
    if name in SECRET_SETTINGS:
        return masked(text)
    if name in URLS_WITH_PASSWORDS:
        return _without_password(text)
    return text


def masked(secret: str) -> str:
    """Enough of a secret to tell two apart, and never more than a quarter of it."""
    shown = min(4, len(secret) // 8)
    return "…" + secret[len(secret) - shown :] if shown else "…"


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{user.partition(':')[0]}:…{at}{place}" if ":" in user else url
