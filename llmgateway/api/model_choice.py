"""Which model a question of the simple API goes to: an alias, a word for who makes it, or a provider's own name.

What a key may not use is as if it were not there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from llmgateway.pipeline.errors import BadRequestError, NotFoundError
from llmgateway.pipeline.natives import reachable
from llmgateway.pipeline.snapshot import Alias, Deployment, Key, Snapshot
from providers.adapters.dialects.registry import get_dialect
from providers.adapters.registry import vendors

CHAT = get_dialect("openai.chat")
AUTO = "auto"
"""The alias that decides where callers name no model."""
_MOST_NAMED = 10


class Choice(NamedTuple):
    """What the pipeline is asked for."""

    asked: str
    """As the caller has named it; of a caller who named nothing, the model that was chosen."""
    model: str
    provider: str = ""
    """Where `model` is the provider's own name, the row of the provider."""


class Choices:
    """The models that one key may use at one moment."""

    def __init__(self, snapshot: Snapshot, key: Key, now: float) -> None:
        self._snapshot = snapshot
        self._now = now
        self._key = key

    @functools.cached_property
    def _aliases(self) -> list[Alias]:
        # Who names an alias, as most do, need not wait until all have been looked at.
        key, now = self._key, self._now
        return [
            alias
            for alias in self._snapshot.aliases.values()
            if (key.models is None or alias.name in key.models) and not alias.is_retired(now)
        ]

    def choose(self, model: str | None, version: str | None) -> Choice:
        """Where a question goes.

        Raises:
            NotFoundError: there is no such model or version, as far as this key may see.
            BadRequestError: nothing leads to exactly this version.
        """
        if version:
            return self._exactly(version, model or "")
        if not model:
            return self._any()
        if model not in self._snapshot.aliases and self._is_word(model):
            return self._made_by(model)
        return Choice(model, model)

    def words(self) -> tuple[str, ...]:
        """All words for who makes models."""
        return tuple(sorted({*vendors(), *self._snapshot.vendor_models}))

    def behind(self, word: str) -> tuple[Deployment, ...]:
        """The deployments that a word may lead to."""
        if alias := self._alias_of(word):
            return alias.deployments
        return tuple([each for each in self.deployments() if each.adapter.vendor == word])

    def _is_word(self, model: str) -> bool:
        return model in self._snapshot.vendor_models or model in vendors()

    def _alias_of(self, word: str) -> Alias | None:
        name = word if word in self._snapshot.aliases else self._snapshot.vendor_models.get(word)
        return next((alias for alias in self._aliases if alias.name == name), None)

    def _any(self) -> Choice:
        """The alias that is there to decide, else the first that can chat."""
        deciding = next((alias for alias in self._aliases if alias.name == AUTO), None)
        found = deciding or _usual_first([alias for alias in self._aliases if self._chats(alias.deployments)])
        if found is None:
            raise _unknown("No model that can answer questions is set up for this key.", "model")
        return Choice(found.name, found.name)

    def _made_by(self, word: str) -> Choice:
        if word in self._snapshot.vendor_models:
            return Choice(word, self._snapshot.vendor_models[word])
        found = _usual_first(
            [
                alias
                for alias in self._aliases
                if self._chats(alias.deployments) and all(each.adapter.vendor == word for each in alias.deployments)
            ]
        )
        if found is not None:
            return Choice(word, found.name)
        for deployment in self.deployments():
            if deployment.adapter.vendor == word and self._chats((deployment,)):
                return self._natively(word, deployment)
        raise _unknown(f"No model of '{word}' is set up for this key.", "model")

    def _exactly(self, version: str, model: str) -> Choice:
        scope = self._scope(model)
        wanted = [deployment for deployment in scope if deployment.model == version]
        if not wanted:
            known = sorted({deployment.model for deployment in scope})
            listed = f" There are {', '.join(known[:_MOST_NAMED])}." if known else ""
            of = f" of '{model}'" if model else ""
            raise _unknown(f"There is no model_version '{version}'{of} for this key.{listed}", "model_version")
        asked = model or version
        ids = {deployment.id for deployment in wanted}
        for alias in sorted(self._aliases, key=lambda each: each.name != model):
            if not alias.rules and alias.deployments and all(each.id in ids for each in alias.deployments):
                return Choice(asked, alias.name)
        return self._natively(asked, wanted[0])

    def _scope(self, model: str) -> Sequence[Deployment]:
        """The deployments among which a version is looked for."""
        if not model:
            return self.deployments()
        of_vendor = [each for each in self.deployments() if each.adapter.vendor == model]
        alias = self._alias_of(model)
        if alias is None and not self._is_word(model):
            raise _unknown(f"The model '{model}' does not exist or is not allowed for this key.", "model")
        return list(_each_once((*(self._reached(alias) if alias else ()), *of_vendor)))

    def _natively(self, asked: str, deployment: Deployment) -> Choice:
        """By the provider's own name, unless an alias of that name would answer in its place."""
        if deployment.model in self._snapshot.aliases:
            raise BadRequestError(
                f"'{deployment.model}' is also the name of an alias that may lead elsewhere. Call the alias, or ask an "
                "admin for one that leads to this model alone.",
                param="model_version",
            )
        return Choice(asked, deployment.model, deployment.provider)

    def deployments(self) -> Sequence[Deployment]:
        """All that this key may use."""
        if self._key.models is None:
            return self._snapshot.deployments
        return list(_each_once(each for alias in self._aliases for each in self._reached(alias)))

    def _reached(self, alias: Alias) -> Iterable[Deployment]:
        return reachable(alias, self._key, now=self._now)

    def _chats(self, deployments: Sequence[Deployment]) -> bool:
        return any(chats(deployment) for deployment in deployments)


def _usual_first(aliases: Sequence[Alias]) -> Alias | None:
    """The first that leads to a model which its adapter knows to be of use for most; else the first."""

    def is_usual(alias: Alias) -> bool:
        return any(each.model == each.adapter.trial_model for each in alias.deployments)

    return next((alias for alias in aliases if is_usual(alias)), aliases[0] if aliases else None)


def chats(deployment: Deployment) -> bool:
    """Whether a deployment can be asked a question, as far as is known: what is paid for reading alone writes nothing."""
    if deployment.adapter.dialect_for(CHAT) is None:
        return False
    if kinds := deployment.capabilities.output_modalities:
        return "text" in kinds
    price = deployment.prices[-1] if deployment.prices else None
    return price is None or bool(price.dearest_output) or not price.dearest_input


def _each_once(deployments: Iterable[Deployment]) -> Iterable[Deployment]:
    return {deployment.id: deployment for deployment in deployments}.values()


def _unknown(reason: str, param: str) -> NotFoundError:
    return NotFoundError(f"{reason} GET /v1/models lists those that it may call.", code="model_not_found", param=param)
