"""The command line, through the installed entry point."""
