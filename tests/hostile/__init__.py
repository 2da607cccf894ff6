"""Attacks on what is read from outside: `python -m tests.hostile --minutes N`; briefly, `pytest tests/hostile`."""
