"""From features to scores and maps."""
