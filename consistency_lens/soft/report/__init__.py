"""The report of a wire: each receiver beside the text, no context, and other codes."""
