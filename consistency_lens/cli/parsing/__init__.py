"""From words to a `Request`: options, recipes, and what is said of those that are not known."""
