"""How wrong perfmodel is: published figures against predictions."""
