"""Files, batches and other objects that providers keep for callers, remembered by one process alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from llmgateway.pipeline.protocols import Owner


class MemoryBook:
    """An `ObjectBook` of one process, which forgets when it ends."""

    def __init__(self) -> None:
        self._owners: dict[str, Owner] = {}
        self._models: dict[str, str] = {}
        self._claims: dict[str, str] = {}

    async def owners(self, ids: Collection[str]) -> Mapping[str, Owner]:
        return {each: self._owners[each] for each in ids if each in self._owners}

    async def remember(self, ids: Collection[str], owner: Owner, *, model: str = "") -> None:
        for each in ids:
            self._owners.setdefault(each, owner)
            if model:
                self._models.setdefault(each, model)

    async def models(self, ids: Collection[str]) -> Mapping[str, str]:
        return {each: self._models[each] for each in ids if each in self._models}

    async def claim(self, object_id: str, owner: Owner, *, request_id: str, now: float) -> bool:
        return self._claims.setdefault(object_id, request_id) == request_id
