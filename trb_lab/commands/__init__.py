"""The verbs of the command line, thin: parse, import, call. Nothing heavy is imported before a verb runs."""
