"""What people do with a finished run: look at rates by group, and at one pair."""
