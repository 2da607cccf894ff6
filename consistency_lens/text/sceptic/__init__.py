"""What a sceptic would put in the place of a text lens: two tokens and a table, one word changed, other sentences."""
