"""What command lines share: parsers and exit codes, printing, progress."""
