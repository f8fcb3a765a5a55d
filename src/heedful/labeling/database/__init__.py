"""The database itself: tables, migrations, backup, events of the audit log."""
