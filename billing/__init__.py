"""What it costs: prices, budgets, the usage journal and the ledger."""
