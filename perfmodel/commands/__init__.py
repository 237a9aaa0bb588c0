"""Commands of the command line; :mod:`perfmodel.cli` registers them."""
