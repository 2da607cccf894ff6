"""What a training measures of itself while it goes on."""
