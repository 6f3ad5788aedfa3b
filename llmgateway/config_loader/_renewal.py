"""What keys have from others, exchanged in memory: their team's rules, everyone's, and those of network lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import structs

from llmgateway.config_loader._keys import AccessRules, acting_too
from llmgateway.config_loader._limits import CALENDAR
from llmgateway.config_loader._networks import KeyNetworks
from llmgateway.config_loader._quotas import own_part
from llmgateway.pipeline.snapshot import BudgetRule, Key, Limit

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet


@dataclass(frozen=True, slots=True)
class Renewal:
    """What changed of all that is lent. To renew a key once more changes nothing."""

    rules: AccessRules
    """As they are now."""
    teams: AbstractSet[int]
    lists: AbstractSet[int]
    everyone: bool

    def after(self, earlier: Renewal) -> Renewal:
        """For keys that `earlier` has not reached yet."""
        return Renewal(
            self.rules, self.teams | earlier.teams, self.lists | earlier.lists, self.everyone or earlier.everyone
        )

    def renewed(self, key: Key) -> Key | None:
        """The key with what its team, its network lists and everyone's rules say now; None if its team is gone.

        Itself where nothing of that changed.
        """
        if self.everyone or key.team_id in self.teams or self._concerns_tenants(key):
            team = self.rules.teams.get(key.team_id)
            if team is None:
                return None
            key = self._with_rules(key, team.name, team.time_zone)
        networks = key.networks
        if isinstance(networks, KeyNetworks) and not self.lists.isdisjoint(networks.lists):
            compiled = self.rules.networks.compile(networks.lists, networks.own)
            tenants = tuple(structs.replace(tenant, networks=compiled) for tenant in key.tenants)
            key = structs.replace(key, networks=compiled, tenants=tenants)
        return key

    def _with_rules(self, key: Key, team_name: str, time_zone: str) -> Key:
        own_limits, own_budgets = own_part(key.limits), own_part(key.budgets)
        if key.time_zone != time_zone:
            own_limits, own_budgets = _limits_in(own_limits, time_zone), _budgets_in(own_budgets, time_zone)
        limits = self.rules.limits.joined(own_limits, key.team_id)
        budgets = self.rules.budgets.joined(own_budgets, key.team_id)
        # Not replace(): it takes four times as long, and this may run for every key there is. What is the same is
        # kept, for both keys are in memory for a while.
        renewed = Key(
            key.id,
            key.public_id,
            key.name,
            key.team_id,
            team_name,
            key.enabled,
            key.starts_at,
            key.expires_at,
            key.models,
            key.networks,
            key.limits if key.limits == limits else limits,
            key.budgets if key.budgets == budgets else budgets,
            key.user_id,
            key.priority,
            key.may_bypass_health,
            time_zone,
        )
        if not key.tenants:
            return renewed
        return acting_too(renewed, [tenant.team_id for tenant in key.tenants], self.rules)

    def _concerns_tenants(self, key: Key) -> bool:
        return bool(key.tenants) and any(tenant.team_id in self.teams for tenant in key.tenants)


def _limits_in(rules: tuple[Limit, ...], time_zone: str) -> tuple[Limit, ...]:
    return tuple(structs.replace(rule, time_zone=time_zone) if rule.per in CALENDAR else rule for rule in rules)


def _budgets_in(rules: tuple[BudgetRule, ...], time_zone: str) -> tuple[BudgetRule, ...]:
    return tuple(structs.replace(rule, time_zone=time_zone) for rule in rules)
