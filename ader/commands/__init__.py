"""The commands: each module has ``SUMMARY``, ``USAGE`` and ``main(request)``; an underscore is no command."""
