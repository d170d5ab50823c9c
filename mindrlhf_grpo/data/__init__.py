"""From data rows to prompts: sources, tokenizers, chat templates, order."""
