"""What the researchers' console asks the database."""
