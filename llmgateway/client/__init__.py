"""A client of the gateway for Python programs, synchronous and asynchronous. Needs httpx, and no Django.

Example:
    from llmgateway.client import Gateway

    with Gateway("http://localhost:8000", key="sk-gw-…") as gateway:
        answer = gateway.chat("What is a ledger?", model=["smart", "cheap"])
        print(answer.text, answer.cost_usd)
        for text in gateway.stream("Tell me more.", model="smart"):
            print(text, end="", flush=True)
"""

from llmgateway.client.answers import Chat, Estimate, Parallel, QueryAnswer, Status
from llmgateway.client.asynchronous import AsyncGateway, AsyncTextStream
from llmgateway.client.errors import (
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ConnectionFailedError,
    GatewayError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    TimedOutError,
)
from llmgateway.client.retries import Retries
from llmgateway.client.synchronous import Gateway, TextStream

__all__ = [
    "AsyncGateway",
    "AsyncTextStream",
    "AuthenticationError",
    "BadRequestError",
    "BudgetExceededError",
    "Chat",
    "ConnectionFailedError",
    "Estimate",
    "Gateway",
    "GatewayError",
    "NotFoundError",
    "OverloadedError",
    "Parallel",
    "PermissionDeniedError",
    "QueryAnswer",
    "RateLimitError",
    "Retries",
    "ServerError",
    "Status",
    "TextStream",
    "TimedOutError",
]
