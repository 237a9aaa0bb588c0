"""Many scenarios: the same question with one thing changed."""
