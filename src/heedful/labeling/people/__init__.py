"""People: accounts, sessions, instructions, questions, surveys."""
