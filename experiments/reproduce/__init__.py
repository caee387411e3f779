"""The papers' figures, run again: one module a table, each with its own command line."""
