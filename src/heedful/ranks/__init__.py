"""One process or many: who this process is, and what all processes do together."""
