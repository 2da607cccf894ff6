"""Where the parts of a frozen LLM lie, found and proven when it is loaded."""
