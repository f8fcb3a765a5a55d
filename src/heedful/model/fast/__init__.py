"""What only buys speed: you can skip it. docs/layouts.md names the plain version of each file."""
