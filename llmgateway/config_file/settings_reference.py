"""The environment settings as a table for the documentation and as `.env.example`, made from `conf.py`.

`./gateway settings-reference --write` puts them into the repository; a test fails when they are out of date.
"""

from __future__ import annotations

from llmgateway.conf import PROJECT_ROOT, Conf, Setting
from providers.adapters.registry import adapter_names, get_adapter
from providers.seeding import api_key_variables

DOCUMENT = PROJECT_ROOT / "docs" / "configuration.md"
ENV_EXAMPLE = PROJECT_ROOT / ".env.example"
BEGIN, END = "<!-- settings: generated -->", "<!-- /settings -->"

_ENV_HEADER = """\
# Settings of the gateway. Copy this file to `.env` in the data folder and take the # off what you change.
# The process environment wins over it. Generated: `manage.py settings_reference --write`.
"""


def settings_table() -> str:
    """A Markdown table of every setting."""
    rows = [f"| `{item.name}` | {_default_cell(item)} | {_cell(item.doc)} |" for item in Conf.settings()]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def env_example() -> str:
    """The text of `.env.example`: every setting with its meaning, and the provider keys."""
    settings = [f"# {item.doc}\n#{item.name}={item.default_text}\n" for item in Conf.settings()]
    keys = "\n".join(f"#{name}=" for name in provider_key_variables())
    return "\n".join(
        [_ENV_HEADER, *settings, f"# Keys of providers: each becomes a provider on the first start.\n{keys}\n"]
    )


def provider_key_variables() -> list[str]:
    """The variables that may hold the key of a provider with an address of its own."""
    adapters = [get_adapter(name) for name in sorted(adapter_names())]
    return [name for adapter in adapters if adapter.base_url for name in api_key_variables(adapter)]


def document_with_table(text: str) -> str:
    """`text` with the table between its marks made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{settings_table()}\n\n{END}{after}"


def _default_cell(item: Setting[object]) -> str:
    return f"`{item.default_text}`" if item.default_text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
