"""Aliases: where they lead, by which rules, and what is done when a target fails."""

from __future__ import annotations

from billing.money import MAX_LIMIT_USD, PICO_PER_USD, pico_from_usd
from llmgateway.config_file.entries import AliasEntry, FallbackEntry, RuleEntry, TargetEntry
from llmgateway.config_file.fields import FieldReader, check_value, read_text
from llmgateway.config_file.reading import Scalar
from llmgateway.config_file.schema.limits import PLACE, read_budgets, read_limits
from llmgateway.validators import validate_name
from providers.models import AliasFallback, ModelAlias

GROUPS = ("parameters", "timeouts", "retries", "cache", "hedge", "mirror")
"""Fields that have fields of their own."""
STICKY = (ModelAlias.Sticky.KEY.value, ModelAlias.Sticky.SESSION.value)
LONGEST_S, LONGEST_KEPT_S = 86_400, 31_536_000


def read_alias(name: str, reader: FieldReader) -> AliasEntry | None:
    """An entry of `aliases`."""
    strategy = reader.choice("strategy", ModelAlias.Strategy.values, default=ModelAlias.Strategy.WEIGHTED.value)
    sticky = reader.choice("sticky", STICKY, default="") if reader.has("sticky") else reader.text("sticky", "")
    targets, rules, fallbacks = _read_targets(reader), _read_rules(reader), _read_fallbacks(reader)
    retires_at = reader.moment("retires_at")
    replacement = reader.text("replacement", "")
    enabled = reader.boolean("enabled")
    limits, budgets = read_limits(reader, PLACE), read_budgets(reader, PLACE)
    reader.refuse("health", because="Deployments are probed, not aliases; write `health` there.")
    groups = {each: reader.object(each) for each in GROUPS}
    columns = _read_columns(groups)
    cache, mirror = groups["cache"], groups["mirror"]
    embeddings, mirror_alias = cache.text("embeddings", "") or "", mirror.text("alias", "") or ""
    _require(reader, "cache", cache, "ttl_s")
    _require(reader, "hedge", groups["hedge"], "max_usd")
    _require(reader, "mirror", mirror, "alias", "percent")
    places = reader.places()
    for group_name, group in groups.items():
        group.finish()
        places |= {f"{group_name}.{step}": place for step, place in group.places().items()}
    reader.finish()
    if not reader.usable or strategy is None or sticky is None or replacement is None:
        return None
    return AliasEntry(
        place=reader.place,
        places=places,
        name=name,
        columns={"strategy": strategy, "sticky": sticky, "retires_at": retires_at, "replacement": replacement, **columns},
        cache_embeddings=embeddings,
        mirror_alias=mirror_alias,
        targets=targets,
        rules=rules,
        fallbacks=fallbacks,
        enabled=enabled,
        limits=limits,
        budgets=budgets,
    )  # fmt: skip


def _require(parent: FieldReader, name: str, group: FieldReader, *needed: str) -> None:
    if parent.has(name) and group.usable:
        for field in needed:
            if not group.has(field):
                group.add(field, f"`{field}` is missing.")


def _read_columns(groups: dict[str, FieldReader]) -> dict[str, object]:
    """By column of the row, what stands in the groups; absent, what it is by itself."""
    parameters, timeouts, cache = groups["parameters"], groups["timeouts"], groups["cache"]
    hedge = groups["hedge"]
    spare = hedge.money("max_usd", pico_from_usd)
    if spare is not None and spare > MAX_LIMIT_USD * PICO_PER_USD:
        hedge.add("max_usd", f"An attempt cannot cost more than {MAX_LIMIT_USD} dollars.")
    similarity = cache.number("similarity", at_least=0.5, at_most=1)
    percent = groups["mirror"].number("percent", at_least=0, at_most=100)
    mode = cache.choice("mode", ModelAlias.CacheMode.values, default=ModelAlias.CacheMode.EXACT.value)
    return {
        "parameter_defaults": parameters.fields_as_they_are("defaults"),
        "parameter_overrides": parameters.fields_as_they_are("overrides"),
        **{
            f"{step}_timeout_s": timeouts.number(f"{step}_s", at_least=0.001, at_most=LONGEST_S)
            for step in ("first_token", "idle", "total")
        },
        "retry_attempts": groups["retries"].integer("attempts", at_most=20),
        "cache_ttl_s": cache.number("ttl_s", at_least=1, at_most=LONGEST_KEPT_S),
        "cache_mode": mode,
        "cache_similarity": 0.95 if similarity is None else similarity,
        "hedge_max_pico_usd": spare,
        "hedge_after_s": hedge.number("after_s", at_least=0.001, at_most=LONGEST_S),
        "mirror_percent": percent or 0.0,
    }


def _read_targets(parent: FieldReader) -> list[TargetEntry]:
    found: dict[tuple[str, str], TargetEntry] = {}
    for reader in parent.objects("targets"):
        deployment, alias = reader.text("deployment", "") or "", reader.text("alias", "") or ""
        weight = reader.integer("weight", 1)
        canary = reader.number("canary_percent", at_least=0, at_most=100)
        reader.finish()
        if reader.usable and bool(deployment) == bool(alias):
            reader.add("deployment", "A target is a `deployment` or an `alias`, one of the two.")
        if not reader.usable or weight is None:
            continue
        if (deployment, alias) in found:
            reader.add(
                "deployment" if deployment else "alias",
                f"{deployment or alias} is a target already; raise its weight instead.",
            )
            continue
        found[deployment, alias] = TargetEntry(
            place=reader.place, places=reader.places(), deployment=deployment, alias=alias, weight=weight,
            canary_percent=canary or 0.0,
        )  # fmt: skip
    return list(found.values())


def _read_rules(parent: FieldReader) -> list[RuleEntry]:
    found: dict[str, RuleEntry] = {}
    for number, reader in enumerate(parent.objects("rules"), start=1):
        name = reader.text("name", f"rule-{number}")
        if reader.has("name") and name is not None:
            check_value(name, reader.at("name"), reader.problems, validate_name)
        when, use = reader.text("when", required=True), reader.text("use", required=True)
        enabled = reader.boolean("enabled")
        reader.finish()
        if not reader.usable or name is None or when is None or use is None:
            continue
        if name in found:
            reader.add("name", f"There is a rule {name} above; give this one another name.")
            continue
        found[name] = RuleEntry(
            place=reader.place, places=reader.places(), name=name, when=when, use=use, enabled=enabled
        )
    return list(found.values())


def _read_fallbacks(parent: FieldReader) -> list[FallbackEntry]:
    """Each the name of an alias, which is for errors, or `on` and `use`."""
    found: dict[tuple[str, str], FallbackEntry] = {}
    error = AliasFallback.Cause.ERROR.value
    for value in parent.values("fallbacks"):
        if isinstance(value, Scalar) and not value.broken and not value.is_null:
            use = read_text(value, parent.problems)
            entry = None if use is None else FallbackEntry(place=value.place, cause=error, use=use)
        else:
            reader = FieldReader(value, parent.problems)
            cause = reader.choice("on", AliasFallback.Cause.values, default=error)
            use = reader.text("use", required=True)
            reader.finish()
            ready = reader.usable and cause is not None and use is not None
            entry = (
                FallbackEntry(place=value.place, places=reader.places(), cause=cause or "", use=use or "")
                if ready
                else None
            )
        if entry is None:
            continue
        if (entry.cause, entry.use) in found:
            parent.problems.add(entry.place, f"{entry.use} is a fallback for this cause already; leave one out.")
            continue
        found[entry.cause, entry.use] = entry
    return list(found.values())
