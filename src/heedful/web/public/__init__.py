"""The public API: OpenAI-compatible routes behind keys, and the pages about keys and their usage."""
