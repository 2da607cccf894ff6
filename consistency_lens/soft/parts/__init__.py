"""The parts of a wire: what compresses, who reads, and where both start."""
