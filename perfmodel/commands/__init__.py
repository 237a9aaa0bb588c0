"""Commands of the command line that have a module of their own; :mod:`perfmodel.cli` registers them."""
