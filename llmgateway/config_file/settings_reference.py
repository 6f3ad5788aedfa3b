"""The environment settings as a table for the documentation and as `.env.example`, made from `conf.py`.

`./gateway settings-reference --write` puts them into the repository; a test fails when they are out of date.
"""

from __future__ import annotations

from llmgateway.conf import PROJECT_ROOT, Conf, Setting

DOCUMENT = PROJECT_ROOT / "docs" / "configuration.md"
ENV_EXAMPLE = PROJECT_ROOT / ".env.example"
ENV_BY_HAND = "# ---- Provider keys"
"""What follows it in `.env.example` is not generated: adding a provider must not need this file."""
BEGIN, END = "<!-- settings: generated -->", "<!-- /settings -->"

_ENV_HEADER = """\
# Settings of the gateway. Copy this file to `.env` in the data folder and take the # off what you change.
# The process environment wins over it. Generated: `manage.py settings_reference --write`.
"""


def settings_table() -> str:
    """A Markdown table of every setting."""
    rows = [f"| `{item.name}` | {_default_cell(item)} | {_cell(item.doc)} |" for item in Conf.settings()]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def env_example(text: str) -> str:
    """The text of `.env.example`: every setting with its meaning, then what is written there by hand."""
    settings = [f"# {item.doc}\n#{item.name}={item.default_text}\n" for item in Conf.settings()]
    _, _, by_hand = text.partition(ENV_BY_HAND)
    return "\n".join([_ENV_HEADER, *settings, ENV_BY_HAND]) + by_hand


def document_with_table(text: str) -> str:
    """`text` with the table between its marks made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{settings_table()}\n\n{END}{after}"


def _default_cell(item: Setting[object]) -> str:
    return f"`{item.default_text}`" if item.default_text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
