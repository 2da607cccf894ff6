"""What a feature stands for: contexts in which it is active, a plain label, and what it writes to the logits."""
