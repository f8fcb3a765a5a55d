"""The labeling application: pages and a JSON API over the labeling database. Nothing here imports torch."""
