"""The visible loops, one a file."""
