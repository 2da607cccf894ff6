"""Several processes: which engine spreads the weights, and what a lens needs under it."""
