"""The program's version."""

VERSION = "0.6.0"
