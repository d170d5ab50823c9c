"""Models: Hugging Face folders as modules of the framework, their heads and adapters."""
