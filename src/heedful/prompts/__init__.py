"""Users' prompts in a project: intake, cleaning, split by owner, statistics, and forgetting an owner (SPEC 1)."""
