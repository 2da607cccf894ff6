"""The two parts of a text lens, and how they write and read."""
