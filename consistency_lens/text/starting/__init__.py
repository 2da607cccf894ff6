"""Where training starts: texts that cost no other model, and the baseline to beat."""
