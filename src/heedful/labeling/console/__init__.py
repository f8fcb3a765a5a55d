"""The database queries of the researchers' console."""
