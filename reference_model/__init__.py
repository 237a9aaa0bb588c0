"""LongCat in PyTorch: the kernels and the model that perfmodel predicts, readable in one sitting."""
