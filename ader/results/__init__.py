"""The results tree: whose folder is whose, and the record in it."""
