"""Dataset readers: one file per dataset, each with a function of the file's name returning an ``Index``."""
