"""The whole configuration, read anew."""

from __future__ import annotations

from collections.abc import Callable

from llmgateway import conf as conf_module
from llmgateway.conf import Conf
from llmgateway.config_loader._keys import LoadedKeys, load_keys, load_rules
from llmgateway.config_loader._reading import one_view
from llmgateway.config_loader._routing import load_routing
from llmgateway.config_loader._sources import load_sources
from llmgateway.key_secrets import pepper_fingerprint
from llmgateway.models import GatewaySettings
from llmgateway.pipeline.snapshot import BudgetRule, ConfigProblem, Retries, Snapshot, SourceRule


def load_snapshot(*, revision: int = 0, conf: Conf | None = None, pause: Callable[[], None] = lambda: None) -> Snapshot:
    """Read everything, as of one moment.

    `pause` is called between slices of a few hundred rows, for a loader beside a running event loop.

    Raises:
        django.db.Error: the database cannot be read.
    """
    conf = conf or conf_module.conf
    peppers = [bytes.fromhex(pepper) for pepper in conf.key_peppers]
    problems: list[ConfigProblem] = []
    with one_view():
        rules = load_rules(problems)
        pepper_ids = {pepper_fingerprint(pepper) for pepper in peppers}
        loaded = load_keys(rules, problems, pepper_ids=pepper_ids, pause=pause)
        problems.extend(_pepper_problems(loaded))
        sources, source_files = load_sources(rules, problems, pepper=peppers[0])
        routing = load_routing(problems)
        body_limit, retries = load_settings(conf)
    return Snapshot(
        revision=revision,
        keys=loaded.keys,
        aliases=routing.aliases,
        providers=routing.providers,
        request_body_limit=body_limit,
        retries=retries,
        sources=sources,
        budgets=rules.all_budgets() | file_budgets(sources),
        problems=tuple(problems),
        watched_files=(*source_files, *routing.files),
    )


def _pepper_problems(loaded: LoadedKeys) -> list[ConfigProblem]:
    return [
        ConfigProblem(
            "llmgateway_apikey",
            "",
            f"pepper {pepper_id}",
            f"{count} keys were saved under a pepper that is not in GATEWAY_KEY_PEPPERS; requests with them are "
            "refused. Add the pepper or issue these keys again.",
        )
        for pepper_id, count in loaded.foreign_peppers.items()
    ]


def file_budgets(sources: tuple[SourceRule, ...]) -> dict[int, BudgetRule]:
    """The budgets that only static files know."""
    found = (rule for source in sources for entry in source.keys.values() for rule in entry.key.budgets)
    return {rule.id: rule for rule in found if rule.id < 0}


def load_settings(conf: Conf) -> tuple[int, Retries]:
    """Largest body in bytes, and retries: the environment wins over the row, the row over the defaults."""
    row = GatewaySettings.objects.filter(pk=1).first() or GatewaySettings()

    def first(wins: int | None, otherwise: int) -> int:
        return otherwise if wins is None else wins

    retries = Retries(
        first(conf.max_retries, row.retry_attempts),
        first(conf.initial_backoff, row.retry_initial_ms),
        first(conf.max_backoff, row.retry_max_ms),
    )
    return first(conf.request_body_limit_mb, row.request_body_limit_mb) * 2**20, retries
