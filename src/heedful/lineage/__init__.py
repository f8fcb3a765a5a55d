"""Where a model comes from, and where a record went: read from a project's run folders, without torch."""
