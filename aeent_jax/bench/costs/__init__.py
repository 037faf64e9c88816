"""What a configuration costs, read from its compiled step, not guessed."""
