"""A training that goes on, or stops with a message and nothing lost, when what it runs on fails."""
