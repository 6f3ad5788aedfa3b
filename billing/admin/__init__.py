"""The admin of money: prices, budgets and their alerts, the ledger, and who is told of it. One noun per module."""

from billing.admin import alerts, budgets, deliveries, prices, reporters, usage

__all__ = ["alerts", "budgets", "deliveries", "prices", "reporters", "usage"]
