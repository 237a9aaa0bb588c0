"""``python -m perfmodel``."""

from perfmodel.main import main

main()
