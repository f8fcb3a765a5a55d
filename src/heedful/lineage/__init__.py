"""Where a model comes from and which models used a record: read from a project's run folders, without torch."""
