"""A code as bytes: quantised, packed, with everything counted."""
