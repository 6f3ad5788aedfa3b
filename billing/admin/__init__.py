"""The admin of money: prices, budgets and the ledger. One noun per module."""

from billing.admin import budgets, prices, usage

__all__ = ["budgets", "prices", "usage"]
