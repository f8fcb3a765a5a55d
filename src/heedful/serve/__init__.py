"""The OpenAI-compatible server over Heedful's engine: ``heedful serve``."""
