"""The command line itself: which commands there are, and how arguments are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmgateway import cli, setting_sources
from llmgateway.conf import Conf
from llmgateway.development import selected
from llmgateway.reports import env_check_command, version_command
from llmgateway.version import version


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What options set does not leak into other tests."""
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv(setting_sources.COMMAND_LINE, "")


def test_help_lists_every_command_with_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["help"]) == 0

    lines = capsys.readouterr().out.splitlines()
    for command in cli.COMMANDS.values():
        [line] = [line for line in lines if line.split()[:1] == [command.name]]
        assert command.summary in line
        assert len(line) <= 120


def test_an_unknown_command_suggests_a_known_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["exports"]) == 2

    assert "did you mean `./gateway export`?" in capsys.readouterr().err


def test_an_unknown_command_like_no_other_points_to_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["zzz"]) == 2

    assert "`./gateway help` lists" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--data", "D", "x"], ["--data=D", "x"], ["x", "--data", "D"]])
def test_an_option_is_taken_from_anywhere(arguments: list[str]) -> None:
    assert cli.take_option(arguments, "--data") == (["x"], "D")


def test_what_follows_two_dashes_is_not_ours() -> None:
    assert cli.take_option(["x", "--", "--data", "D"], "--data") == (["x", "--", "--data", "D"], None)


def test_the_data_folder_of_the_command_line_is_said_to_come_from_there(tmp_path: Path) -> None:
    cli.run(["help", "--data", str(tmp_path)])

    conf = Conf({"GATEWAY_DATA_DIR": str(tmp_path)})
    [source] = [each for each in setting_sources.setting_sources(conf) if each.name == "GATEWAY_DATA_DIR"]
    assert source == setting_sources.SettingSource("GATEWAY_DATA_DIR", str(tmp_path), "command line")


def test_each_setting_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("LOG_LEVEL=debug\n")
    monkeypatch.setenv("PORT", "8123")
    conf = Conf({"GATEWAY_DATA_DIR": str(tmp_path), "LOG_LEVEL": "debug", "PORT": "8123"})

    sources = {each.name: each.source for each in setting_sources.setting_sources(conf)}

    assert sources["LOG_LEVEL"] == ".env"
    assert sources["PORT"] == "environment"
    assert sources["HOST"] == "default"


def test_secrets_and_passwords_are_never_shown() -> None:
    conf = Conf({"SECRET_KEY": "s" * 40 + "tail", "DATABASE_URL": "postgres://user:pass-word@host/name"})

    shown = {each.name: each.shown for each in setting_sources.setting_sources(conf)}

    assert shown["SECRET_KEY"] == "…tail"
    assert shown["DATABASE_URL"] == "postgres://user:…@host/name"


@pytest.mark.parametrize(
    ("secret", "shown"), [("", "…"), ("short", "…"), ("sixteen-letters!", "…s!"), ("x" * 64, "…xxxx")]
)
def test_a_masked_secret_shows_a_quarter_at_most(secret: str, shown: str) -> None:
    assert setting_sources.masked(secret) == shown


def test_the_version_is_the_changelogs(capsys: pytest.CaptureFixture[str]) -> None:
    assert version_command(["--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert told["version"] == version()
    assert set(told) == {"version", "commit", "built_at", "python"}


def test_env_check_masks_provider_keys(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-key-that-nobody-may-see-1234")

    assert env_check_command([]) == 0

    out = capsys.readouterr().out
    assert "nobody-may-see" not in out
    assert "…1234" in out
    assert "GLM_API_KEY" in out
    for setting in Conf.settings():
        assert setting.name in out


@pytest.mark.parametrize(
    ("given", "has_browser", "becomes"),
    [
        (["-q"], True, ["-m", "not slow", "-q"]),
        (["-q", "--floors"], False, ["-m", "(not slow) and not browser", "-q"]),
        (["-m", "e2e", "-x"], True, ["-m", "e2e", "-x"]),
        (["-m=e2e or slow"], False, ["-m", "(e2e or slow) and not browser"]),
        (["-m", ""], True, ["-m", ""]),
        (["-m", ""], False, ["-m", "not browser"]),
        (["--maxfail=1"], True, ["-m", "not slow", "--maxfail=1"]),
    ],
)
def test_slow_and_browser_tests_are_left_out_beside_what_is_asked_for(
    given: list[str], has_browser: bool, becomes: list[str]
) -> None:
    assert selected(given, has_browser=has_browser) == becomes


def test_every_target_of_the_makefile_calls_a_command_that_exists() -> None:
    makefile = (Path(__file__).parents[3] / "Makefile").read_text()
    calls = [line.split("./gateway", 1)[1].split() for line in makefile.splitlines() if line.startswith("\t")]

    assert len(calls) == 13
    assert {call[0] for call in calls if call} <= set(cli.COMMANDS)
