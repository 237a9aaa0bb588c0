"""What ships, told."""
