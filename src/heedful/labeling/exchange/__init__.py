"""Move data between the database and a project's records."""
