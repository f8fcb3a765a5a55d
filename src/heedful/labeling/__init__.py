"""The labeling database and what people do in it. Nothing here imports torch."""
