"""What seconds mean: rates, utilisation and money."""
