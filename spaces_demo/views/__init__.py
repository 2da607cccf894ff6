"""One tab a file: what it computes, how it looks, and how its parts are wired."""
