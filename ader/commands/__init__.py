"""The sub-commands: each module has ``main(arguments)``."""
