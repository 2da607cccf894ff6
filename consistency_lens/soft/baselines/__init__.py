"""What a wire is measured beside: codes at other rates, dropped tokens, fitted codes, and two receivers together."""
