"""Code that only buys speed, so you can skip it. docs/layouts.md names the plain version of each file."""
