"""From words to a `Request`: options, recipes, and the messages about those that are unknown."""
