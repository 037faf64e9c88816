"""Command line programs; each is a thin absl module."""
