"""A wire in use: a text to bytes, bytes to an answer, in one process or in several, and in servers of others."""
