"""The playground: chat with models, compare them blind, vote, rank, edit and criticize their answers."""
