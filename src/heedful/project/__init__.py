"""A project on disk: its folder and heedful.toml, records as JSON lines, import and export, runs."""
