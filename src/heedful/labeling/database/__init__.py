"""The database itself: tables, migrations, backup, the audit's events."""
