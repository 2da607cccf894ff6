"""Other tools: what of a lens they can open, and what of theirs a lens is made of."""
