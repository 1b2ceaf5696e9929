"""The program's version."""

VERSION = "0.7.0"
