"""Any ``config.json`` -> :class:`~perfmodel.spec.model.Model`: one reader, and a data file per family.

``reader`` composes; ``fields`` reads typed keys and knows what nobody has read; ``keys`` says which keys mean the same,
which say nothing and which are suspicious; ``families`` loads ``data/families/*.yaml``; ``rules`` evaluates what such a
file says of a value, ``patterns`` what it says of layers, ``kinds`` builds the parts; ``checkpoint`` reads
quantization.
"""
