"""What a transcoder's report measures beyond the pass with it in place: rate, density, reach, errors, a twin."""
