"""What several test files share; pytest finds it by the path in pyproject.toml."""
