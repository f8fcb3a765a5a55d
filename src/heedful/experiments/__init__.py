"""The paper's experiments on a project's own model (SPEC 5), and the paper in miniature as one command."""
