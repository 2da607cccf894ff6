"""From files to a frozen LLM, and where it comes from."""
