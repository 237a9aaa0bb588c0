"""What ``perfmodel sweep`` tells: a table of its columns, and a picture of two or three of them."""
