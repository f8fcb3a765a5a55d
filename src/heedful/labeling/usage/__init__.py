"""How people use the models: conversations, votes and feedback in the playground; keys, limits and the log of the API."""
