"""A transcoder where the truth is known: which feature stands for which fact, and whether it computes as the model."""
