"""What ``perfmodel plan`` tells: table, page, and the winner as a scenario file."""
