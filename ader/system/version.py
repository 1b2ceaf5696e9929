"""The program's version."""

VERSION = "0.5.0"
