"""A report as tables, Markdown, a screen, pictures and a card: each asks the report how it wants to be shown."""
