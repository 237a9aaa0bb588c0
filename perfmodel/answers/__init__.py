"""What an answer rests on, and what makes it less certain; the answers themselves are to move in here."""
