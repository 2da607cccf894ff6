"""The Consistency Lens: activation -> words -> activation."""
