"""The report of a transcoder: fidelity, replacement, controls."""
