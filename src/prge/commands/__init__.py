"""What each command does; no command line here."""
