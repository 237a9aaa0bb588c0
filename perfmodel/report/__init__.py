"""What a cost report says, as numbers and plain records; :mod:`perfmodel.output` only tells it."""
