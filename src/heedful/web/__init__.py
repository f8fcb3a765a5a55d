"""The web application: the labelers' pages, the researchers' console, administration and the JSON API."""
