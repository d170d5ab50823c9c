"""Model folders in the Hugging Face layout, read and written without a framework.

To support another kind of weight file, add a module beside ``safetensors`` that offers the same reads and writes.
"""
