"""The program's version."""

VERSION = "0.4.0"
