"""Load with real sockets and real publishes, reconciled with the engine's own ledger: ``python -m loadtest``."""
