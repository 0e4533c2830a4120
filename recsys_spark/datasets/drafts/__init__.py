"""A first look at data that nobody has described: its columns, their likely roles, a pipeline."""
