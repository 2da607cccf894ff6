"""Files of a lens: written, read back, pushed, and described."""
