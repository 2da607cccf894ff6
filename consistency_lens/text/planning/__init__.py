"""What of a training can be known before it begins: sizes, operations, refusals."""
