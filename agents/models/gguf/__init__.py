"""Models in GGUF, llama.cpp's format: converted once into a folder in the layout of ``transformers``."""
