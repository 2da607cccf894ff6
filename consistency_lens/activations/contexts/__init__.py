"""Rows of one position with its context and its activations."""
