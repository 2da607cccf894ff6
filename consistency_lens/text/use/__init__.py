"""A lens in words, in use: steering by words, and the command for it."""
