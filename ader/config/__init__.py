"""From a command line and YAML files to checked, typed values."""
