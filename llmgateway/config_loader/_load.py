"""The whole configuration, read anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from django.db.models import Count

from llmgateway import conf as conf_module
from llmgateway.conf import Conf
from llmgateway.config_loader._foreign import load_foreign
from llmgateway.config_loader._garbage import keep, no_collection
from llmgateway.config_loader._keys import load_keys, load_rules
from llmgateway.config_loader._lent import as_known
from llmgateway.config_loader._reading import log_position, one_view
from llmgateway.config_loader._routing import load_routing
from llmgateway.config_loader._settings import load_settings
from llmgateway.config_loader._sources import file_budgets, files_of, load_sources
from llmgateway.key_secrets import pepper_fingerprint
from llmgateway.models import ApiKey
from llmgateway.pipeline.snapshot import ConfigProblem, Snapshot

Pause = Callable[[], None]


def no_pause() -> None:
    """For a process that has nothing else to do yet."""


def load_snapshot(
    *, revision: int = 0, conf: Conf | None = None, pause: Pause = no_pause, before: Snapshot | None = None
) -> Snapshot:
    """Read everything, as of one moment.

    `pause` is called between slices of a few hundred rows, for a loader beside a running event loop. What is the same
    in the snapshot `before` is taken from there: both are alive for a while, and two of them might not fit in memory.

    Raises:
        django.db.Error: the database cannot be read.
    """
    with no_collection():
        snapshot = _load(revision, conf or conf_module.conf, pause, before or Snapshot())
        keep(len(snapshot.keys))
    return snapshot


def _load(revision: int, conf: Conf, pause: Pause, before: Snapshot) -> Snapshot:
    problems: list[ConfigProblem] = []
    before = replace(before, keys=as_known(before.keys))
    with one_view():
        position = log_position()
        rules = load_rules(problems, before=before, pause=pause)
        budgets = rules.all_budgets()
        keys = load_keys(rules, problems, before=before.keys, pause=pause)
        problems.extend(pepper_problems(conf))
        sources = load_sources(rules, problems, pepper=newest_pepper(conf))
        settings = load_settings(conf, problems)
        routing = load_routing(problems, settings)
        foreign = load_foreign()
    return Snapshot(
        revision=revision,
        keys=keys,
        aliases=routing.aliases,
        providers=routing.providers,
        deployments=routing.deployments,
        request_body_limit=settings.request_body_limit,
        retries=settings.retries,
        admission=settings.admission,
        circuit=settings.circuit,
        load=settings.load,
        cache=settings.cache,
        vendor_models=settings.vendor_models,
        sources=sources,
        foreign=foreign,
        budgets=budgets | routing.budgets | file_budgets(sources),
        problems=tuple(problems),
        watched_files=(*files_of(sources), *routing.files),
        position=position,
    )


def newest_pepper(conf: Conf) -> bytes:
    return bytes.fromhex(conf.key_peppers[0])


PEPPER = "pepper "
"""How the names of problems with peppers begin."""


def pepper_problems(conf: Conf) -> list[ConfigProblem]:
    """Keys that cannot work because their pepper is not here."""
    known = [pepper_fingerprint(bytes.fromhex(pepper)) for pepper in conf.key_peppers]
    foreign = (
        ApiKey.objects.filter(revoked_at__isnull=True)
        .exclude(pepper_id__in=known)
        .values_list("pepper_id")
        .annotate(Count("id"))
        .order_by("pepper_id")
    )
    return [
        ConfigProblem(
            "llmgateway_apikey",
            "",
            f"{PEPPER}{pepper_id}",
            f"{count} keys were saved under a pepper that is not in GATEWAY_KEY_PEPPERS; requests with them are "
            "refused. Add the pepper or issue these keys again.",
        )
        for pepper_id, count in foreign
    ]
