"""What the tests of configuration files share: a file on disk, and nothing of the environment but what they set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmgateway import conf as conf_module
from llmgateway.conf import Conf
from llmgateway.config_file.importing import import_text
from llmgateway.config_file.problems import ConfigFileError
from llmgateway.config_file.report import Report

Environment = Callable[..., None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    """`environment(NAME="value")` sets variables for the gateway's settings."""

    def set_variables(**values: str) -> None:
        monkeypatch.setattr(conf_module, "conf", Conf(conf_module.conf.values | values))

    return set_variables


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    """`file(text)` writes a configuration file and returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def load(text: str, **options: Any) -> Report:
    """Import a text that starts after `version: 1`, which is line 1."""
    return import_text("version: 1\n" + text, **options)


def problems(text: str, **options: Any) -> list[str]:
    """What is wrong with a text that starts after `version: 1`."""
    with pytest.raises(ConfigFileError) as raised:
        load(text, **options)
    return raised.value.lines
