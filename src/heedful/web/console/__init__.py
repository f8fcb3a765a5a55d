"""The researchers' and admins' pages."""
