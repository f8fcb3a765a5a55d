"""The labeling application: pages and a JSON API over the store. Nothing here reaches torch."""
