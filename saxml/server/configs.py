"""Imports every published configuration, which registers it."""

import importlib

# A new file below params/ gets a line here; requests never cause an import.
_MODULES = ("auto", "gptj")


def import_all() -> None:
    """Fills the registry."""
    for module in _MODULES:
        importlib.import_module(f"saxml.server.pax.lm.params.{module}")
