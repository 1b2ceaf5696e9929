"""The YAML files that this package adds to ader's."""
