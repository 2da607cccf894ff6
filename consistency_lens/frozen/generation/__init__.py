"""Generation under edits, token by token."""
