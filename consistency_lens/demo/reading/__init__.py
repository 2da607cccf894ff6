"""Notes in eight words, and the two small models that answer questions about them: what a wire is tried on."""
