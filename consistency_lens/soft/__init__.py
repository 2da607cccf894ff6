"""LatentWire: a few vectors, compressed from a text, that several frozen models read in the text's place."""
