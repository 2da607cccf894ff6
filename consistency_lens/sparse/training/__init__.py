"""What a transcoder learns from, and what a training knows beside its weights."""
