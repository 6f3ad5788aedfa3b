"""How often a request is tried again, after which waits, and with which model. No I/O."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from llmgateway.client.errors import GatewayError


@dataclass(frozen=True, slots=True)
class Retries:
    """Waits grow from `initial_s` by factors of two, up to `longest_s`, and are drawn at random below that.

    The gateway retries providers by itself; these are for the gateway: its limits, its restarts, the way to it.
    """

    attempts: int = 2
    """Tries of each model after the first."""
    initial_s: float = 0.5
    longest_s: float = 30.0
    """A gateway that asks for a longer wait is not waited for."""


class Course:
    """Of one request through its models. A stream's course ends with its first byte.

    Example:
        while True:
            try:
                return send(course.model)
            except GatewayError as error:
                sleep(course.wait_after(error))
    """

    def __init__(self, models: Sequence[str], retries: Retries) -> None:
        self._models = list(models)
        self._retries = retries
        self._tried = 0

    @property
    def model(self) -> str:
        return self._models[0]

    def wait_after(self, error: GatewayError) -> float:
        """Seconds to wait before the next try, which may be of another model. Raises `error` where there is none."""
        if error.may_retry and self._tried < self._retries.attempts:
            wait_s = self._wait_s(error)
            if wait_s is not None:
                self._tried += 1
                return wait_s
        if len(self._models) > 1 and error.blames_model:
            self._models.pop(0)
            self._tried = 0
            return 0.0
        raise error

    def _wait_s(self, error: GatewayError) -> float | None:
        """None: the gateway asks for longer than anybody waits."""
        retries = self._retries
        longest = min(retries.longest_s, retries.initial_s * 2 ** min(self._tried, 30))
        wait_s = random.uniform(0, longest)  # noqa: S311
        if error.retry_after_s is None:
            return wait_s
        return None if error.retry_after_s > retries.longest_s else error.retry_after_s + wait_s


def models_of(model: str | Sequence[str] | None) -> list[str]:
    """The models to try in order; an empty name lets the gateway choose."""
    names = [model or ""] if model is None or isinstance(model, str) else list(model)
    if not names:
        raise ValueError("name a model, or leave `model` out")
    return names
