"""Where the data are: records as JSONL in a project's folder, import from and export to other formats."""
