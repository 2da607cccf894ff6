"""A transcoder in use: features of a text, edits computed inside the pass, and other tools' formats."""
