"""One scenario over key paths: the points of a design, asked one by one by any executor, kept as they are done."""
