"""From activations to active features and back: the arithmetic of a transcoder."""
