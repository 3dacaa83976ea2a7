"""Fixtures of the fault ring."""
