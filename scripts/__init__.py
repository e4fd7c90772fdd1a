"""Scripts of the repository (not shipped): real parts for tests and for ``make up``."""
