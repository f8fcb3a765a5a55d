"""What only buys speed. A reader may skip it."""
