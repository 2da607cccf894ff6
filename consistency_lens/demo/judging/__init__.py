"""What the world knows about explanations: whether they are true, and of what."""
