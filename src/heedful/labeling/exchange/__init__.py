"""Between the database and a project's records."""
